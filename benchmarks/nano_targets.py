"""Measure the figures that nano is judged by, beside their targets, and write them to `benchmarks/results/nano.json`.

    for split in simple simple-signs simple-320x192 simple-192x320 simple-512x512; do
        glmkit eval --suite text-render --split $split --run reports/nano/$split
    done
    glmkit eval --suite nano-edit --run reports/nano/nano-edit
    python benchmarks/nano_targets.py reports/nano/simple* reports/nano/nano-edit

and the same of everyday-en, everyday-zh, long-words and multi-text, whose figures are those of the suite, with
`--out benchmarks/results/nano_everyday.json`.

Each run holds the held-out edits or one of the splits, one image per prompt, whose words are held out. OCR scores
the words, with intervals over prompts (bootstrap). `glmkit.posters.check` reads in the pixels whether an image is as
its caption describes it; such shares of images have Wilson intervals, which stay honest at 100 %. Beside the splits
of posters, the VAE and the semantic tokenizer are measured on 64 posters whose words no training poster has.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from PIL import Image

from glmkit import runs
from glmkit.errors import UserError
from glmkit.evaluation import stats, suites
from glmkit.files import read_json, read_jsonl, write_json
from glmkit.models.hybrid import HybridModel
from glmkit.posters.check import check_attributes
from glmkit.posters.edit_set import edit_set
from glmkit.posters.simple import SPLITS, simple_scenes
from glmkit.pretraining.config import VaeStage
from glmkit.pretraining.posters import PosterDataset
from glmkit.pretraining.vae import VaeObjective
from glmkit.records import Score
from glmkit.training import features

RESULT = Path(__file__).parent / "results" / "nano.json"
WORDS = {"word_accuracy": 0.85, "ned": 0.95}  # metric of text-render -> target
EDIT_SUITE = "nano-edit"
EDITS = {"edit_success": 0.75, "background_psnr": 24.0}  # metric of nano-edit -> target; the second in dB
SHORT_WORD, LONGEST_SHORT = 0.93, 8  # target and most letters of prompts that ask for a single short word
ATTRIBUTES = 0.95  # target of every attribute that a caption names
NAMED = {"attribute_accuracy": 0.95, "all_texts_in_place": 0.9}
EVERYDAY = {  # split of text-render -> metric -> target
    "everyday-en": {"word_accuracy": 0.8, "ned": 0.93, **NAMED},
    "everyday-zh": {"character_accuracy": 0.75, "ned": 0.75, **NAMED},
    "long-words": {"word_accuracy": 0.75, "ned": 0.93, **NAMED},
    "multi-text": {"word_accuracy": 0.75, "ned": 0.93, **NAMED},
}
PROMPTS = {**{split: count for split, (count, _) in SPLITS.items()}, EDIT_SUITE: len(edit_set())}
PROMPTS |= Counter(prompt.split for prompt in suites.prompts(suites.load("text-render")) if prompt.split in EVERYDAY)
HELD_OUT_POSTERS, SEED = 64, 987


@dataclass(frozen=True)
class Figure:
    """A value (between 0 and 1, or in dB) with its 95 % interval, the number of prompts behind it, and the target."""

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


def share(passed: Sequence[bool], target: float) -> Figure:
    """Return the share of n independent images that pass, with the score interval (Wilson 1927)."""
    if not passed:
        return Figure(None, None, None, 0, target)
    n, z = len(passed), NormalDist().inv_cdf(0.5 + stats.LEVEL / 2)
    p = sum(passed) / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Figure(p, (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n), n, target)


def pooled(scores: Sequence[Score], targets: Mapping[str, float]) -> dict[str, Figure]:
    """Return the suite's own figures."""
    return {metric: Figure(*stats.estimate(scores, metric), target) for metric, target in targets.items()}


def words(scores: Sequence[Score]) -> dict[str, Figure]:
    """Return word accuracy and NED of all images, and word accuracy where the prompt asks for one short word alone."""
    short = [score for score in scores if score.error is None and is_short_word(score.expected)]
    right = [score.counts["word_accuracy"][0] > 0 for score in short]
    return {**pooled(scores, WORDS), "short_words": share(right, SHORT_WORD)}


def is_short_word(texts: Sequence[str]) -> bool:
    """Tell whether the text is one word of at most LONGEST_SHORT letters and digits; punctuation is not counted."""
    return len(texts) == 1 and " " not in texts[0] and sum(map(str.isalnum, texts[0])) <= LONGEST_SHORT


def attributes(run: Path, images: Iterable[Mapping[str, Any]]) -> dict[str, Figure]:
    """Return the share of the images that have it, for every attribute that captions name."""
    scenes, passed = simple_scenes(), dict[str, list[bool]]()
    for record in images:
        scene = scenes[record["prompt_id"]]
        with Image.open(run / record["file"]) as image:
            if image.size != (scene.width, scene.height):
                actual, wanted = (f"{width}x{height}" for width, height in (image.size, (scene.width, scene.height)))
                raise UserError(f"{run}: {record['file']} has another size", found=actual, fix=f"--size {wanted}")
            for name, right in check_attributes(image, scene).items():
                passed.setdefault(name, []).append(right)
    return {name: share(values, ATTRIBUTES) for name, values in passed.items()}


def figures(name: str, run: Path, scores: Sequence[Score], images: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Return the figures of a split, or of the suite of edits."""
    if name == EDIT_SUITE or name in EVERYDAY:
        return pooled(scores, EDITS if name == EDIT_SUITE else EVERYDAY[name])
    return {**words(scores), **attributes(run, images)}


def measure(run: Path) -> tuple[str, dict[str, Any]]:
    """Return the split of a finished run, or the suite of edits, and its figures; UserError for any other run."""
    if not (run / "summary.json").exists():
        fix = f"glmkit eval --suite text-render --split simple --run {run}"
        raise UserError(f"{run} is not a finished evaluation", fix=fix)
    settings = read_json(run / "manifest.json")["settings"]
    name = settings["split"] or settings["suite"]
    if name not in PROMPTS or settings["count"] != 1:
        found = {key: settings[key] for key in ("suite", "split", "count")}
        raise UserError(f"{run} is not one of {', '.join(PROMPTS)} with one image per prompt", found=found)
    scores = [Score.from_dict(record) for record in read_jsonl(run / "scores.jsonl")]
    images = [record for record in read_jsonl(run / "images.jsonl") if record["file"]]
    return name, {
        "figures": figures(name, run, scores, images),
        "n_scored": sum(score.error is None for score in scores),
        "n_generated": len(images),
        "n_prompts": PROMPTS[name],
        "median_seconds": statistics.median(record["seconds"] for record in images),
        "settings": settings,
    }


def by_split(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the figures of every run; UserError when two are of one split, or not all are of one model."""
    measured: dict[str, dict[str, Any]] = {}
    for run in folders:
        split, result = measure(run)
        if split in measured:
            raise UserError(f"two runs of {split}", found=[str(folder) for folder in folders], fix="one run per split")
        measured[split] = result
    models = {result["settings"]["model_fingerprint"]: result["settings"]["model"] for result in measured.values()}
    if len(models) > 1:
        raise UserError("the runs are of different models", found=models, fix="repeat glmkit eval for all of them")
    return measured


def components(hybrid: HybridModel) -> dict[str, float]:
    """Return the PSNR of the VAE in dB and the share of the codebook that the held-out posters use."""
    posters = PosterDataset(HELD_OUT_POSTERS, 256, 256, SEED, 1, "held-out")
    unused = VaeStage(steps=1, global_batch_size=1, learning_rate=1)
    psnr = VaeObjective(hybrid, None, (posters, posters), unused).validation_losses()["psnr"]
    everything = list(range(HELD_OUT_POSTERS))
    cache = features.FeatureCache(hybrid.device)
    large = features.precompute_large_tokens(hybrid, posters, cache)[everything]
    preview = features.precompute_preview_tokens(hybrid, posters, cache)[everything]
    used = torch.cat([large.flatten(), preview.flatten()]).unique().numel()
    return {"vae_psnr_db": psnr, "codebook_usage": used / hybrid.semantic_vq.config.num_embeddings}


def table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Write one line per figure, its target beside it."""
    lines = []
    for split, result in measured.items():
        settings = result["settings"]
        size = SPLITS.get(split, (0, ""))[1] or f"{settings['width']}x{settings['height']}"
        lines.append(
            f"{split}: {size}, {result['n_scored']} of {result['n_prompts']} images scored, "
            f"{result['median_seconds']:.1f} s per image"
        )
        for name, figure in result["figures"].items():
            value = "not measured" if figure.value is None else f"{figure.value:.3f}"
            interval = "" if figure.low is None else f"[{figure.low:.3f}, {figure.high:.3f}]"
            target = f">= {figure.target:.2f}"
            lines.append(f"  {name:18} {value:>6}  {interval:16} n {figure.n:<4} {target}  {figure.verdict}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--out", metavar="FILE", type=Path, default=RESULT, help="default %(default)s")
    arguments = parser.parse_args()
    try:
        measured = by_split(arguments.runs)
        model = next(iter(measured.values()))["settings"]["model"]
        component_figures = {} if measured.keys() <= EVERYDAY.keys() else components(HybridModel.load(model))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    splits = {
        split: {**result, "figures": {name: asdict(figure) for name, figure in result["figures"].items()}}
        for split, result in measured.items()
    }
    result = {
        "splits": splits,
        "components": component_figures,
        "environment": runs.environment("cpu"),
        "command": "python benchmarks/nano_targets.py RUN...",
    }
    write_json(arguments.out, result)
    print(table(measured))
    print("\n".join(f"{name:16} {value:.3f}" for name, value in component_figures.items()))


if __name__ == "__main__":
    main()
