"""What `rl_nano.py` takes its minutes and its posters from, and how it sums up."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image

from glmkit.evaluation import stats
from glmkit.files import read_json, write_json, write_jsonl
from glmkit.posters import grammar
from glmkit.posters import render as simple_render
from glmkit.posters.everyday import captions, captions_zh, masks
from glmkit.posters.everyday import render as everyday_render
from glmkit.posters.everyday.check import BELOW
from glmkit.posters.everyday.colours import ALIASES, COLOURS
from glmkit.posters.everyday.scene import EverydayScene
from glmkit.posters.grammar import SHAPES
from glmkit.posters.sets import save
from glmkit.records import Score
from glmkit.training.rl import monitors

TICK = 1.0  # seconds
METRICS = ("word_accuracy", "ned", "cer", "word_precision", "attribute_accuracy", "texts_in_place")
FIGURE = ("value", "low", "high", "n")
MONITORED = 128  # prompts
ZH_KINDS = (captions_zh.KINDS, captions_zh.OTHER_KINDS)


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
class Scene:
    """One poster of nano's training world: how it is asked for, and what renders it."""

    caption: str
    texts: tuple[str, ...]
    named: Mapping[str, Any]
    render: Callable[[], Image.Image]


def scenes(count: int, seed: int, side: int, asked: Collection[str]) -> Iterator[Scene]:
    """Yield scenes of nano's training world: of its plain grammar and of everyday scenes in turn.

    `side` is their height and width in pixels. No text is one of `asked`, in lower case.
    """
    number = made = 0
    while made < count:
        rng = random.Random(f"rewards {seed}:{number}")
        simple = grammar.sample_scene(rng, height=side, width=side) if number % 2 == 0 else None
        everyday = masks.indexed_scene(seed, number, height=side, width=side, split="train")
        texts = everyday.texts if simple is None else simple.texts
        number += 1
        if any(text.lower() in asked for text in texts):
            continue
        made += 1
        if simple is None:
            said = captions.caption(everyday, rng)
            yield Scene(said, texts, named(everyday, said), partial(everyday_render.render, everyday))
        else:
            yield Scene(grammar.caption(simple, rng), texts, {}, partial(simple_render.render, simple))


def named(scene: EverydayScene, caption: str) -> dict[str, Any]:
    """Return what a caption names of its scene, as `Prompt.named` has it: colours, shapes, frame and rows of texts.

    Words in quotes name nothing. Places of shapes, and in Chinese those of texts, are left open.
    """
    for text in scene.texts:
        caption = caption.replace(text, "")
    colours_said = _colours(caption)
    kinds = {*SHAPES} & {*re.findall("|".join(SHAPES), caption)}
    kinds |= {kind for kind in SHAPES if any(words[kind] in caption for words in ZH_KINDS if kind in words)}

    def said(colour: str) -> str:
        return colour if colour in colours_said else ""

    shapes = [
        {"kind": kind, "colour": said(colour), "count": len(group)}
        for (kind, colour, _), group in scene.shape_groups.items()
        if kind in kinds
    ]
    is_framed = bool(scene.frame.thickness and re.search("frame|border|framed|框", caption))
    found = {
        "background": said(scene.background),
        "text_colours": [said(scene.accent_colour if one.accent else scene.text_colour) for one in scene.blocks],
        "places": [
            BELOW if number and scene.arrangement == "stack" else _row(block.place[0], caption)
            for number, block in enumerate(scene.blocks)
        ],
        "shapes": shapes,
        "frame": {"colour": said(scene.frame.colour)} if is_framed else {},
    }
    return {name: value for name, value in found.items() if value and any(value)}


def _colours(caption: str) -> set[str]:
    """Find names of colours; the longest where one holds another."""
    names = {english: english for english in COLOURS} | {other: name for name, other in ALIASES.items()}
    names |= {chinese.removesuffix("色"): name for name, (_, chinese) in COLOURS.items() if chinese}
    longest_first = sorted(names, key=len, reverse=True)
    return {names[one] for one in re.findall("|".join(map(re.escape, longest_first)), caption.lower())}


def _row(row: str, caption: str) -> str:
    """Return a row where an English caption says it."""
    said = {"top": "top|upper", "middle": "middle|cent(er|re)", "bottom": "bottom|lower"}[row]
    return row if re.search(said, caption) else ""


def write_prompts(folder: Path, count: int, seed: int, side: int, asked: Collection[str]) -> None:
    """Write prompts.jsonl with the captions of `scenes`, if not done yet."""
    if not (folder / "prompts.jsonl").exists():
        records = [
            {"id": f"{folder.name}-{number:05}", "prompt": one.caption, "texts": list(one.texts), "named": one.named}
            for number, one in enumerate(scenes(count, seed, side, asked))
        ]
        write_jsonl(folder / "prompts.jsonl", records)


def write_posters(folder: Path, count: int, seed: int, side: int, asked: Collection[str]) -> None:
    """Write the posters of the same scenes with their captions, to train on, if not done yet."""
    if (folder / "metadata.jsonl").exists():
        return
    records = []
    for number, one in enumerate(scenes(count, seed, side, asked)):
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
