"""Text masks: where the letters of a scene are, drawn once on the CPU and coloured later, many times, anywhere."""

from __future__ import annotations

import mmap
import multiprocessing
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from glmkit.posters import fonts
from glmkit.posters.grammar import Scene, draw_scene
from glmkit.posters.words import Split

CHUNK = 256


def text_mask(scene: Scene) -> np.ndarray:
    """Coverage of every pixel by letters: uint8 H W, 0 none, 255 full. Lines are centred."""
    canvas = Image.new("L", (scene.width, scene.height), 0)
    draw = ImageDraw.Draw(canvas)
    for line in scene.lines:
        font = fonts.load(scene.font, line.size)
        draw.text((scene.width // 2, line.baseline), line.text, fill=255, font=font, anchor="ms")
    return np.asarray(canvas)


def scene_of(seed: int, index: int, *, height: int, width: int, split: Split) -> Scene:
    """Scene number `index` of the endless series that `seed` names."""
    return draw_scene(random.Random(f"{seed}:{index}"), height=height, width=width, split=split)


def mask_pool(
    count: int, seed: int, *, height: int = 256, width: int = 256, workers: int = 1, split: Split = "train"
) -> tuple[list[Scene], np.ndarray]:
    """The first `count` scenes of a series and their masks, uint8 N H W; the number of workers changes only the speed.

    Workers write into one block of memory that they share with the caller, so a pool takes count x H x W bytes once.
    """
    block = mmap.mmap(-1, max(1, count * height * width))
    masks = np.frombuffer(block, dtype=np.uint8, count=count * height * width).reshape(count, height, width)
    starts = range(0, count, CHUNK)

    def fill(start: int) -> list[Scene]:
        stop = min(start + CHUNK, count)
        scenes = [scene_of(seed, index, height=height, width=width, split=split) for index in range(start, stop)]
        for index, scene in enumerate(scenes, start=start):
            masks[index] = text_mask(scene)
        return scenes

    if workers <= 1:
        return [scene for start in starts for scene in fill(start)], masks
    # Forked workers inherit the closure; it could not be sent to them.
    with multiprocessing.get_context("fork").Pool(workers, initializer=_adopt, initargs=(fill,)) as pool:
        chunks = pool.map(_call, starts, chunksize=1)
    return [scene for chunk in chunks for scene in chunk], masks


_adopted: Callable[[int], list[Scene]]


def _adopt(fill: Callable[[int], list[Scene]]) -> None:
    global _adopted
    _adopted = fill


def _call(start: int) -> list[Scene]:
    return _adopted(start)
