"""What all arms of `rl_nano.py` share: settings, minutes, posters, images, and how they sum up."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image

from glmkit import runs
from glmkit.evaluation import stats
from glmkit.evaluation.plan import GenerationSettings
from glmkit.files import read_json, write_json, write_jsonl
from glmkit.generation.images import save_png
from glmkit.generation.loading import load_model
from glmkit.generation.pipeline import generate_batch
from glmkit.generation.requests import batch_settings
from glmkit.models.hybrid import HybridModel
from glmkit.posters.prompt_set import CaptionedScene
from glmkit.posters.sets import save
from glmkit.records import Request, Score
from glmkit.training.rl import monitors

TICK = 1.0  # seconds
METRICS = ("word_accuracy", "ned", "cer", "word_precision", "attribute_accuracy", "texts_in_place")
FIGURE = ("value", "low", "high", "n")
MONITORED = 128  # prompts


class TimeUp(BaseException):
    """The minutes of a training are over; nothing that catches errors may hold it up."""


def run_for(seconds: float, record: Path, work: Callable[[], object]) -> float:
    """Do the work, but no longer than this, earlier attempts that `record` has included; returns the seconds in all."""
    spent = read_json(record)["seconds"] if record.exists() else 0.0
    if spent >= seconds:
        return spent
    last = time.monotonic()

    def tick(*_: object) -> None:
        nonlocal spent, last
        spent, last = spent + time.monotonic() - last, time.monotonic()
        write_json(record, {"seconds": spent})

    def alarm(*_: object) -> None:
        tick()
        if spent >= seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise TimeUp

    tick()  # the record is there from the start
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
        work()
    except TimeUp:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    tick()
    return spent


@dataclass(frozen=True)
class Experiment:
    """What all arms share."""

    out: Path
    model: str
    device: torch.device
    minutes: float
    group: int
    batch: int
    micro_batch: int
    at_once: int
    steps: int
    prompts: int
    limit: int | None
    splits: tuple[str | None, ...]
    seeds: int
    ocr: str
    changes: tuple[str, ...] = ()
    loaded: dict[tuple[str, ...], HybridModel] = field(default_factory=dict)

    def model_with(self, adapters: Sequence[str]) -> HybridModel:
        """Load nano in float32, so that merging loses nothing of small changes; the one before leaves."""
        key = tuple(adapters)
        if key not in self.loaded:
            self.free()
            self.loaded[key] = load_model(self.model, self.device, "float32", key)
        return self.loaded[key]

    def free(self) -> None:
        """Leave the GPU's memory to the next."""
        self.loaded.clear()
        gc.collect()
        torch.cuda.empty_cache()


def generation(e: Experiment, model: HybridModel, count: int, **others: float) -> GenerationSettings:
    """Return the settings of `count` images per prompt, those of the model but for `others`."""
    settings = GenerationSettings.with_defaults(model, str(e.device), count=count, guidance=others.get("guidance"))
    sampling = {name: value for name, value in others.items() if name == "temperature"}
    return replace(settings, sampling={**settings.sampling, **sampling})


def generate(e: Experiment, adapters: Sequence[str], requests: Sequence[Request], folder: Path) -> None:
    """Generate the images that are not there yet, as many at once as the experiment says."""
    batches: dict[tuple[object, ...], list[Request]] = {}
    for request in requests:
        if not (folder / f"{request.id}.png").exists():
            batches.setdefault(batch_settings(request), []).append(request)
    for alike in batches.values():
        for start in range(0, len(alike), e.at_once):
            batch = alike[start : start + e.at_once]
            for request, image in zip(batch, generate_batch(e.model_with(adapters), batch), strict=True):
                save_png(folder / f"{request.id}.png", image, {})


def write_posters(folder: Path, posters: Sequence[CaptionedScene]) -> None:
    """Write posters with their captions, to train on, if not done yet."""
    if (folder / "metadata.jsonl").exists():
        return
    records = []
    for number, one in enumerate(posters):
        name = f"{number:05}.png"
        save(one.render(), folder / name)
        records.append({"file_name": name, "text": one.caption, "texts": list(one.texts)})
    write_jsonl(folder / "metadata.jsonl", records)


def looks(folder: Path, scores: Sequence[Score]) -> dict[str, float]:
    """Measure how images look, on average, and how far those of one prompt are apart."""
    by_prompt: dict[str, list[Path]] = {}
    for score in scores:
        by_prompt.setdefault(score.prompt_id, []).append(folder / f"{score.id}.png")
    chosen = list(by_prompt.values())[:: max(1, len(by_prompt) // MONITORED)]
    images = [[Image.open(path).convert("RGB") for path in paths if path.exists()] for paths in chosen]
    each = [monitors.looks(image) for group in images for image in group]
    means = {name: mean(one[name] for one in each) for name in each[0]} if each else {}
    return {**means, **monitors.alike([[*map(monitors.thumbnail, group)] for group in images if group])}


def pooled(scores: Sequence[Score], base: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """Pool the scores of each split and of all, with the paired differences from the base; by split and metric."""
    splits = {"all": (scores, base)}
    for name in dict.fromkeys(score.split for score in scores):
        splits[name] = tuple([score for score in side if score.split == name] for side in (scores, base))  # type: ignore[assignment]
    return {
        name: {
            metric: {
                "score": dict(zip(FIGURE, stats.estimate(own, metric), strict=True)),
                "difference": dict(zip(FIGURE, stats.paired_difference(before, own, metric), strict=True)),
            }
            for metric in METRICS
        }
        for name, (own, before) in splits.items()
    }


def result(e: Experiment, scores: Sequence[Score], base: Sequence[Score], about: Mapping[str, Any]) -> dict[str, Any]:
    """Pool the scores of each split and of all, with the paired differences from the base."""
    return {
        **about,
        "failed": sum(score.error is not None for score in scores),
        "splits": pooled(scores, base),
        "environment": runs.environment(str(e.device)),
        "command": "python benchmarks/rl_nano.py OUT",
    }


def table(out: Path, arms: Iterable[str]) -> str:
    """Lay out word accuracy, and its paired difference from the base, of all arms that are done."""
    done = {name: read_json(out / f"{name}.json") for name in arms if (out / f"{name}.json").exists()}
    splits = list(dict.fromkeys(split for one in done.values() for split in one["splits"]))
    lines = ["| split | " + " | ".join(done) + " |", "| --- " * (1 + len(done)) + "|"]
    for split in splits:
        cells = []
        for name, one in done.items():
            found = one["splits"].get(split, {}).get("word_accuracy")
            value = found and found["score" if name == "base" else "difference"]
            known = value and value["low"] is not None
            sign = "" if name == "base" else "+"
            cells.append(f"{value['value']:{sign}.3f} [{value['low']:.3f}, {value['high']:.3f}]" if known else "")
        lines.append(f"| {split} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
