"""How near the images of runs are to the style of `data/posters`; written to `benchmarks/results/style.json`.

    glmkit eval --suite text-render --split retro --run reports/style/before
    glmkit eval --suite text-render --split retro --adapter reports/poster_lora/adapter --run reports/style/after
    python benchmarks/style_distance.py reports/style/before reports/style/after

The split `retro` asks for posters of that style with other words. Each run is compared with all 64 images of
`data/posters` by the kernel distance of KID on two kinds of features that need no download:

form      EfficientNet-lite0 trained on ImageNet, which knows nothing of posters: frame, typeface, layout
colours   a histogram of the pixels' colours: the palette and nothing else

Neither is FID or KID, and neither number means anything outside this comparison. The reference against itself is the
distance between two of its halves: a run within its range cannot be distinguished from the style. The estimator has no
bias from small sets, it only scatters; the halves are smaller than what is compared and scatter more, so the range is
on the wide side. Later runs are compared with the first one, prompt by prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glmkit import runs
from glmkit.errors import UserError
from glmkit.evaluation.features import extractors
from glmkit.evaluation.metrics import kernel
from glmkit.evaluation.stats import Estimate, PairedDifference
from glmkit.files import read_json, read_jsonl, write_json
from glmkit.inputs.images import read_image

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "data" / "posters"
RESULT = Path(__file__).parent / "results" / "style.json"
BATCH = 16
BINS = 4

Extract = Callable[[Sequence[Image.Image]], np.ndarray]


@dataclass(frozen=True)
class Images:
    """The images of a run by prompt, and what generated them."""

    name: str
    by_prompt: dict[str, Image.Image]
    settings: dict[str, Any]


def reference() -> list[Image.Image]:
    return [read_image(path) for path in sorted(REFERENCE.glob("*/*.png"))]


def images_of(run: Path) -> Images:
    """UserError when there are fewer than two, or they are of another split."""
    if not (run / "summary.json").exists():
        fix = f"glmkit eval --suite text-render --split retro --run {run}"
        raise UserError(f"{run} is not a finished evaluation", fix=fix)
    settings = read_json(run / "manifest.json")["settings"]
    if settings.get("split") != "retro":
        raise UserError(
            f"{run} does not ask for the style", found=f"split {settings.get('split')}", fix="--split retro"
        )
    rows = [row for row in read_jsonl(run / "images.jsonl") if row["file"] and row["seed"] == 0]
    if len(rows) < 2:
        raise UserError(f"{run} holds too few images", found=len(rows), fix="at least two")
    return Images(str(run), {row["prompt_id"]: read_image(run / row["file"]) for row in rows}, settings)


def colours(images: Sequence[Image.Image]) -> np.ndarray:
    """Features N BINS^3, float64: square roots of the shares of an RGB histogram with BINS points a channel, each
    pixel spread linearly over the eight points around it. Scaled so that x.y / BINS^3 is the affinity of two
    histograms: 1 when they are equal, 0 when they have nothing in common (Bhattacharyya 1943)."""
    rows = []
    for image in images:
        levels = np.asarray(image, dtype=np.float64).reshape(-1, 3) / 255 * (BINS - 1)
        low = np.floor(levels).clip(0, BINS - 2).astype(int)
        counts = np.zeros(BINS**3)
        for corner in np.ndindex(2, 2, 2):
            weights = np.where(corner, levels - low, 1 - (levels - low)).prod(axis=1)
            counts += np.bincount((low + corner) @ (BINS**2, BINS, 1), weights, minlength=BINS**3)
        rows.append(np.sqrt(counts / len(levels) * BINS**3))
    return np.stack(rows)


def feature_extractors() -> dict[str, Extract]:
    """Images -> features N D, by what they tell."""
    return {"form": extractors.load("efficientnet-lite0", "cpu").extract, "colours": colours}


def extract(extractor: Extract, images: Sequence[Image.Image]) -> np.ndarray:
    starts = range(0, len(images), BATCH)
    return np.concatenate([extractor(images[start : start + BATCH]) for start in starts])


def compare(extractor: Extract, style: Sequence[Image.Image], compared: Sequence[Images]) -> dict[str, Any]:
    """Measure the reference against itself and the distance of every run.

    Every later run has its paired difference to the first, too, on common prompts.
    """
    known = extract(extractor, style)
    found = {
        one.name: dict(zip(one.by_prompt, extract(extractor, [*one.by_prompt.values()]), strict=True))
        for one in compared
    }
    first, *later = found
    differences = {}
    for name in later:
        common = [prompt for prompt in found[first] if prompt in found[name]]
        if len(common) < 2:
            raise UserError(f"{name} and {first} have too few prompts in common", found=len(common), fix="at least two")
        before, after = (np.stack([found[run][prompt] for prompt in common]) for run in (first, name))
        differences[name] = kernel.difference(before, after, known)
    distances = {name: kernel.distance(np.stack([*rows.values()]), known) for name, rows in found.items()}
    return {"self_distance": kernel.self_distance(known), "distances": distances, "differences": differences}


def table(measured: Mapping[str, dict[str, Any]]) -> str:
    """List the distances beside that of the reference to itself, one line per run, for every kind of features."""
    lines = []
    for kind, result in measured.items():
        itself, first = result["self_distance"], next(iter(result["distances"]))
        lines.append(
            f"{kind} (lower is nearer): the set against itself {itself.value:.4f} {_range(itself)}, {itself.n} per side"
        )
        for run, figure in result["distances"].items():
            lines.append(f"  {run}: {figure.value:.4f} {_range(figure)}, n {figure.n}")
            if run in result["differences"]:
                change = result["differences"][run]
                verdict = "nearer" if change.high < 0 else "farther" if change.low > 0 else "difference not resolved"
                lines.append(f"    {change.difference:+.4f} {_range(change)} against {first}, n {change.n}: {verdict}")
    return "\n".join(lines)


def _range(figure: Estimate | PairedDifference) -> str:
    return f"[{figure.low:.4f}, {figure.high:.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--out", metavar="FILE", type=Path, default=RESULT, help="default %(default)s")
    arguments = parser.parse_args()
    try:
        compared, style = [images_of(run) for run in dict.fromkeys(arguments.runs)], reference()
        measured = {kind: compare(extractor, style, compared) for kind, extractor in feature_extractors().items()}
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    result = {
        "definition": kernel.DEFINITION,
        "features": {kind: _plain(figures) for kind, figures in measured.items()},
        "reference": {"folder": "data/posters", "images": len(style)},
        "settings": {one.name: one.settings for one in compared},
        "environment": runs.environment("cpu"),
        "command": "python benchmarks/style_distance.py RUN...",
    }
    write_json(arguments.out, result)
    print(table(measured))


def _plain(value: Any) -> Any:
    """Estimates as JSON objects, at any depth."""
    if hasattr(value, "_asdict"):
        return value._asdict()
    return {name: _plain(inner) for name, inner in value.items()}


if __name__ == "__main__":
    main()
