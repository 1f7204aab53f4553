"""Compare nano's figures with their targets and write them to `benchmarks/results/nano.json`.

    for split in everyday-en everyday-zh long-words multi-text simple simple-320x192 simple-192x320 simple-512x512; do
        glmkit eval --suite text-render --split $split --run reports/nano/$split
    done
    glmkit eval --suite nano-edit --run reports/nano/nano-edit
    glmkit eval --suite everyday-edit --run reports/nano/everyday-edit
    python benchmarks/nano_targets.py reports/nano/*/

Each run is a split, or a suite of edits, with one image per prompt; its figures are those of the suite, with intervals
over prompts (bootstrap). Other sizes may be 0.05 below `simple`. Images may also come from another machine (`glmkit
generate --prompts` there, `glmkit eval --images` here): `--images-from` then says from which.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from glmkit import runs
from glmkit.errors import UserError
from glmkit.evaluation import stats, suites
from glmkit.files import read_json, read_jsonl, write_json
from glmkit.records import Score

RESULT = Path(__file__).parent / "results" / "nano.json"
NAMED = {"attribute_accuracy": 0.95}
EVERYDAY = {"word_accuracy": 0.75, "ned": 0.93, **NAMED, "all_texts_in_place": 0.9}
EDITS = {"edit_success": 0.95, "background_psnr": 34.0}  # the second in dB
TARGETS: dict[str, dict[str, float]] = {  # split, or suite of edits -> metric -> target
    "everyday-en": {**EVERYDAY, "word_accuracy": 0.8},
    "everyday-zh": {**EVERYDAY, "character_accuracy": 0.75, "ned": 0.75},
    "long-words": EVERYDAY,
    "multi-text": EVERYDAY,
    "simple": {"word_accuracy": 0.93, "ned": 0.985, **NAMED},
    "simple-signs": {"word_accuracy": 0.85, "ned": 0.95, **NAMED},
    "nano-edit": EDITS,
    "everyday-edit": EDITS,
}
SIZES, LIKE, LOSS = ("simple-320x192", "simple-192x320", "simple-512x512"), "simple", 0.05


@dataclass(frozen=True)
class Figure:
    """A value (from 0 to 1, or in dB) with its 95 % interval, the number of prompts behind it, and its target."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    target: float

    @property
    def verdict(self) -> str:
        """Compare with the target: below, reached, or resolved (the whole interval is above)."""
        if self.value is None or self.value < self.target:
            return "below"
        return "resolved" if self.low is not None and self.low >= self.target else "reached"


def prompts(name: str) -> int:
    """Return how many prompts a split, or a suite of edits, has; UserError for one without targets."""
    if name in SIZES or name in TARGETS:
        suite = name if TARGETS.get(name) is EDITS else "text-render"
        found = suites.prompts(suites.load(suite))
        return len(found) if suite == name else Counter(prompt.split for prompt in found)[name]
    raise UserError(f"no target is known for {name}", fix=f"one of {', '.join((*TARGETS, *SIZES))}")


def measure(run: Path) -> tuple[str, dict[str, Any]]:
    """Return the split of a finished run, or the suite of edits, and its figures; UserError for any other run."""
    if not (run / "summary.json").exists():
        fix = f"glmkit eval --suite text-render --split simple --run {run}"
        raise UserError(f"{run} is not a finished evaluation", fix=fix)
    settings = read_json(run / "manifest.json")["settings"]
    name = settings["split"] or settings["suite"]
    n_prompts = prompts(name)
    scores = [Score.from_dict(record) for record in read_jsonl(run / "scores.jsonl")]
    images = [record for record in read_jsonl(run / "images.jsonl") if record["file"]]
    if len({record["prompt_id"] for record in images}) < len(images):
        raise UserError(f"{run} has several images per prompt", found=f"{len(images)} images", fix="--count 1")
    metrics = TARGETS.get(name, TARGETS[LIKE])
    return name, {
        "figures": {metric: Figure(*stats.estimate(scores, metric), target) for metric, target in metrics.items()},
        "n_scored": sum(score.error is None for score in scores),
        "n_generated": len(images),
        "n_prompts": n_prompts,
        "settings": {key: value for key, value in settings.items() if key != "images"},
    }


def by_split(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the figures of every run; UserError when two are of one split, or not all are of one model."""
    measured: dict[str, dict[str, Any]] = {}
    for run in folders:
        split, result = measure(run)
        if split in measured:
            raise UserError(f"two runs of {split}", found=[str(folder) for folder in folders], fix="one run per split")
        measured[split] = result
    settings = [result["settings"] for result in measured.values()]
    models = {one["model_fingerprint"]: one["model"] for one in settings if "model" in one}
    if len(models) > 1:
        raise UserError("the runs are of different models", found=models, fix="repeat glmkit eval for all of them")
    for size in measured.keys() & set(SIZES):
        if LIKE not in measured:
            raise UserError(f"{size} is compared with {LIKE}, which is missing", fix=f"a run of {LIKE}")
        known = measured[LIKE]["figures"]
        figures = measured[size]["figures"]
        measured[size]["figures"] = {m: replace(one, target=known[m].value - LOSS) for m, one in figures.items()}
    return measured


def table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Write one line per figure, its target beside it."""
    lines = []
    for split, result in measured.items():
        lines.append(f"{split}: {result['n_scored']} of {result['n_prompts']} images scored")
        for name, figure in result["figures"].items():
            value = "not measured" if figure.value is None else f"{figure.value:.3f}"
            interval = "" if figure.low is None else f"[{figure.low:.3f}, {figure.high:.3f}]"
            target = f">= {figure.target:.2f}"
            lines.append(f"  {name:18} {value:>6}  {interval:16} n {figure.n:<4} {target}  {figure.verdict}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--images-from", metavar="DEVICE", help="where the images of runs with `--images` come from")
    parser.add_argument("--out", metavar="FILE", type=Path, default=RESULT, help="default %(default)s")
    arguments = parser.parse_args()
    try:
        measured = by_split(arguments.runs)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    splits = {
        split: {**result, "figures": {name: asdict(figure) for name, figure in result["figures"].items()}}
        for split, result in measured.items()
    }
    result = {
        "splits": splits,
        "images_from": arguments.images_from,
        "environment": runs.environment("cpu"),
        "command": "python benchmarks/nano_targets.py RUN...",
    }
    write_json(arguments.out, result)
    print(table(measured))


if __name__ == "__main__":
    main()
