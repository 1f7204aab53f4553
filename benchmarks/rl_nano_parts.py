"""What `rl_nano.py` takes its minutes and its posters from."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from PIL import Image

from glmkit.files import read_json, write_json, write_jsonl
from glmkit.posters import grammar
from glmkit.posters import render as simple_render
from glmkit.posters.everyday import captions, masks
from glmkit.posters.everyday import render as everyday_render
from glmkit.posters.sets import save

TICK = 1.0  # seconds


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


def scenes(
    count: int, seed: int, side: int, asked: Collection[str]
) -> Iterator[tuple[str, tuple[str, ...], Image.Image]]:
    """Yield captions, texts and posters of nano's training world: of its plain grammar and of everyday scenes in turn.

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
            yield captions.caption(everyday, rng), texts, everyday_render.render(everyday)
        else:
            yield grammar.caption(simple, rng), texts, simple_render.render(simple)


def write_posters(folder: Path, count: int, seed: int, side: int, asked: Collection[str]) -> None:
    """Write posters with their captions (see `scenes`), and prompts.jsonl with the same captions, if not done yet."""
    if (folder / "prompts.jsonl").exists():
        return
    records, prompts = [], []
    for number, (caption, texts, poster) in enumerate(scenes(count, seed, side, asked)):
        name = f"{number:05}"
        save(poster, folder / f"{name}.png")
        records.append({"file_name": f"{name}.png", "text": caption, "texts": list(texts)})
        prompts.append({"id": f"{folder.name}-{name}", "prompt": caption, "texts": list(texts)})
    write_jsonl(folder / "metadata.jsonl", records)
    write_jsonl(folder / "prompts.jsonl", prompts)
