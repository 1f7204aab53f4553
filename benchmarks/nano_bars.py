"""The figures that nano is judged by, beside their bars; written to `benchmarks/results/nano.json`.

    for split in simple simple-signs simple-320x192 simple-192x320 simple-512x512; do
        glmkit eval --suite text-render --split $split --run reports/nano/$split
    done
    glmkit eval --suite nano-edit --run reports/nano/nano-edit
    python benchmarks/nano_bars.py reports/nano/simple* reports/nano/nano-edit

Each run holds one of the five splits, one image a prompt, that is held-out words through the whole system; or the
held-out edits. Words are scored by OCR, with intervals over prompts (bootstrap). Whether an image is as its caption
describes it is checked in its pixels (`glmkit.posters.check`); such shares of images have Wilson intervals, which
stay honest at 100 %. The VAE and the semantic tokenizer are measured on 64 posters whose words no training poster has.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from PIL import Image

from glmkit import runs
from glmkit.config import VaeStage
from glmkit.errors import UserError
from glmkit.evaluation import stats
from glmkit.files import read_json, read_jsonl, write_json
from glmkit.models.hybrid import HybridModel
from glmkit.posters.check import checks
from glmkit.posters.edit_set import edit_set
from glmkit.posters.simple import SPLITS, simple_scenes
from glmkit.records import Score
from glmkit.training import features
from glmkit.training.data import PosterImages
from glmkit.training.objectives.vae import VaeObjective

RESULT = Path(__file__).parent / "results" / "nano.json"
WORDS = {"word_accuracy": 0.85, "ned": 0.95}  # metric of text-render -> bar
EDIT_SUITE = "nano-edit"
EDITS = {"edit_success": 0.75, "background_psnr": 24.0}  # metric of nano-edit -> bar; the second in dB
SHORT_WORD, LONGEST_SHORT = 0.93, 8  # bar and letters of prompts that ask for a single short word
DESCRIBED = 0.95  # bar of every property that a caption names
PROMPTS = {**{split: count for split, (count, _) in SPLITS.items()}, EDIT_SUITE: len(edit_set())}
HELD_OUT, SEED = 64, 987


@dataclass(frozen=True)
class Figure:
    """A value (between 0 and 1, or in dB) with its 95 % interval, the number of prompts behind it, and the bar."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    bar: float

    @property
    def verdict(self) -> str:
        """Against the bar: below, reached, or resolved (the whole interval is above)."""
        if self.value is None or self.value < self.bar:
            return "below"
        return "resolved" if self.low is not None and self.low >= self.bar else "reached"


def share(passed: Sequence[bool], bar: float) -> Figure:
    """How many of n independent images pass, with the score interval (Wilson 1927)."""
    if not passed:
        return Figure(None, None, None, 0, bar)
    n, z = len(passed), NormalDist().inv_cdf(0.5 + stats.LEVEL / 2)
    p = sum(passed) / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Figure(p, (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n), n, bar)


def pooled(scores: Sequence[Score], bars: Mapping[str, float]) -> dict[str, Figure]:
    """The suite's own figures."""
    return {metric: Figure(*stats.estimate(scores, metric), bar) for metric, bar in bars.items()}


def words(scores: Sequence[Score]) -> dict[str, Figure]:
    """Word accuracy and NED of all images, and word accuracy where the prompt asks for one short word alone."""
    found = pooled(scores, WORDS)
    short = [row for row in scores if row.error is None and is_short_word(row.expected)]
    right = [row.counts["word_accuracy"][0] > 0 for row in short]
    return {**found, "short_words": share(right, SHORT_WORD)}


def is_short_word(texts: Sequence[str]) -> bool:
    """One word of at most LONGEST_SHORT letters and digits; its punctuation has to be read, but is not counted."""
    return len(texts) == 1 and " " not in texts[0] and sum(map(str.isalnum, texts[0])) <= LONGEST_SHORT


def described(run: Path, images: Iterable[Mapping[str, Any]]) -> dict[str, Figure]:
    """For every property that captions name, the share of the images that have it."""
    scenes, passed = simple_scenes(), dict[str, list[bool]]()
    for row in images:
        scene = scenes[row["prompt_id"]]
        with Image.open(run / row["file"]) as image:
            if image.size != (scene.width, scene.height):
                found, wanted = (f"{width}x{height}" for width, height in (image.size, (scene.width, scene.height)))
                raise UserError(f"{run}: {row['file']} has another size", found=found, fix=f"--size {wanted}")
            for name, right in checks(image, scene).items():
                passed.setdefault(name, []).append(right)
    return {name: share(found, DESCRIBED) for name, found in passed.items()}


def measure(run: Path) -> tuple[str, dict[str, Any]]:
    """The split of a finished run, or the suite of edits, and its figures; UserError for a run of anything else."""
    if not (run / "summary.json").exists():
        fix = f"glmkit eval --suite text-render --split simple --run {run}"
        raise UserError(f"{run} is not a finished evaluation", fix=fix)
    settings = read_json(run / "manifest.json")["settings"]
    name = settings["split"] or settings["suite"]
    if name not in PROMPTS or settings["seeds"] != 1:
        found = {key: settings[key] for key in ("suite", "split", "seeds")}
        raise UserError(f"{run} is not one of {', '.join(PROMPTS)} with one image a prompt", found=found)
    scores = [Score.from_dict(row) for row in read_jsonl(run / "scores.jsonl")]
    images = [row for row in read_jsonl(run / "images.jsonl") if row["file"]]
    return name, {
        "figures": pooled(scores, EDITS) if name == EDIT_SUITE else {**words(scores), **described(run, images)},
        "n_scored": sum(row.error is None for row in scores),
        "n_drawn": len(images),
        "n_prompts": PROMPTS[name],
        "median_seconds": statistics.median(row["seconds"] for row in images),
        "settings": settings,
    }


def by_split(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The figures of every run; UserError when two are of one split, or not all are of one model."""
    measured: dict[str, dict[str, Any]] = {}
    for run in folders:
        split, result = measure(run)
        if split in measured:
            raise UserError(f"two runs of {split}", found=[str(folder) for folder in folders], fix="one run a split")
        measured[split] = result
    models = {result["settings"]["model_fingerprint"]: result["settings"]["model"] for result in measured.values()}
    if len(models) > 1:
        raise UserError("the runs are of different models", found=models, fix="repeat glmkit eval for all of them")
    return measured


def parts(hybrid: HybridModel) -> dict[str, float]:
    """PSNR of the VAE in dB and the share of the codes that the held-out posters use."""
    posters = PosterImages(HELD_OUT, 256, 256, SEED, 1, "held-out")
    unused = VaeStage(method="full", steps=1, global_batch_size=1, learning_rate=1)
    psnr = VaeObjective(hybrid.vae, posters, posters, unused, hybrid.device).validation_losses()["psnr"]
    everything = list(range(HELD_OUT))
    cache = features.FeatureCache(hybrid.device)
    large = features.precompute_large_tokens(hybrid, posters, cache)[everything]
    preview = features.precompute_preview_tokens(hybrid, posters, cache)[everything]
    used = torch.cat([large.flatten(), preview.flatten()]).unique().numel()
    return {"vae_psnr_db": psnr, "codes_used": used / hybrid.semantic_vq.config.num_embeddings}


def table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a figure, its bar beside it."""
    lines = []
    for split, result in measured.items():
        settings = result["settings"]
        size = SPLITS.get(split, (0, ""))[1] or f"{settings['width']}x{settings['height']}"
        lines.append(
            f"{split}: {size}, {result['n_scored']} of {result['n_prompts']} images scored, "
            f"{result['median_seconds']:.1f} s an image"
        )
        for name, figure in result["figures"].items():
            value = "not measured" if figure.value is None else f"{figure.value:.3f}"
            interval = "" if figure.low is None else f"[{figure.low:.3f}, {figure.high:.3f}]"
            bar = f">= {figure.bar:.2f}"
            lines.append(f"  {name:14} {value:>6}  {interval:16} n {figure.n:<4} {bar}  {figure.verdict}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--out", metavar="FILE", type=Path, default=RESULT, help="default %(default)s")
    arguments = parser.parse_args()
    try:
        measured = by_split(arguments.runs)
        model = next(iter(measured.values()))["settings"]["model"]
        hybrid_parts = parts(HybridModel.load(model))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    splits = {
        split: {**result, "figures": {name: asdict(figure) for name, figure in result["figures"].items()}}
        for split, result in measured.items()
    }
    result = {
        "splits": splits,
        "parts": hybrid_parts,
        "environment": runs.environment("cpu"),
        "command": "python benchmarks/nano_bars.py RUN...",
    }
    write_json(arguments.out, result)
    print(table(measured))
    print("\n".join(f"{name:16} {value:.3f}" for name, value in hybrid_parts.items()))


if __name__ == "__main__":
    main()
