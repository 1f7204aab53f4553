"""Text masks: where the letters of a scene are, drawn once on the CPU and coloured later, many times, anywhere; and
signs: which letter or shape it is.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from glmkit.posters import fonts
from glmkit.posters.edits import KINDS, Edit, draw_edit
from glmkit.posters.grammar import MARGIN, SHAPES, SIDES, Scene, draw_scene
from glmkit.posters.words import Split

T = TypeVar("T")
CHUNK = 256
CELL = 8  # pixels, the side of a latent position


def text_mask(scene: Scene) -> np.ndarray:
    """Coverage of every pixel by letters, and by the frame, which has their colour: uint8 H W, 0 none, 255 full."""
    canvas = Image.new("L", (scene.width, scene.height), 0)
    draw = ImageDraw.Draw(canvas)
    x, anchor, _ = _anchor(scene)
    for line in scene.lines:
        font = fonts.load(scene.font, line.size)
        draw.text((x, line.baseline), line.text, fill=255, font=font, anchor=anchor)
    if scene.frame.band:
        gap = scene.frame.gap
        box = (gap, gap, scene.width - 1 - gap, scene.height - 1 - gap)
        draw.rectangle(box, outline=255, width=scene.frame.band)
    return np.asarray(canvas)


def _anchor(scene: Scene) -> tuple[int, str, float]:
    """The column at which lines are held, Pillow's name for how, and which share of a line stands before it."""
    edge = round(MARGIN * min(scene.height, scene.width))
    columns = {
        "left": (edge, "ls", 0.0),
        "centre": (scene.width // 2, "ms", 0.5),
        "right": (scene.width - edge, "rs", 1.0),
    }
    return columns[scene.side]


def sign_cells(scene: Scene) -> np.ndarray:
    """Which sign stands in every cell of 8x8 pixels: uint8 H/8 W/8, the ASCII code of a letter, 1 to 6 for the kinds of
    `grammar.SHAPES`, or 0 where there is none.

    A letter's cells are those whose centre lies within its advance width, between the baseline and the capitals' top; a
    shape's those within its radius, of a stripe's middle row.
    """
    cells = np.zeros((scene.height // CELL, scene.width // CELL), dtype=np.uint8)
    rows, columns = (CELL * (np.arange(side) + 0.5) for side in cells.shape)
    shape = scene.shape
    if shape.kind != "none":
        across = 0.0 if shape.kind == "stripe" else columns - shape.x
        distance = np.hypot((rows - shape.y)[:, None], np.broadcast_to(across, columns.shape))
        cells[distance < shape.radius] = 1 + SHAPES.index(shape.kind)
    capital = fonts.proportions(scene.font).capital
    x, _, share = _anchor(scene)
    for line in scene.lines:
        font = fonts.load(scene.font, line.size)
        ends = np.array([font.getlength(line.text[: count + 1]) for count in range(len(line.text))])
        start = x - share * ends[-1]
        number = np.searchsorted(ends, columns - start, side="right")
        inside = (columns >= start) & (number < len(ends))
        codes = np.frombuffer(line.text.replace(" ", "\0").encode("ascii"), dtype=np.uint8)
        band = (rows >= line.baseline - capital * line.size) & (rows < line.baseline)
        cells[np.ix_(band, inside)] = codes[number[inside]]
    return cells


def scene_of(
    seed: int, index: int, *, height: int, width: int, split: Split, wide: float = 0.0, aligned: float = 0.0
) -> Scene:
    """Scene number `index` of the endless series that `seed` names; a share `wide` of them is of the wide world, and a
    share `aligned` has its lines at an edge and is otherwise what it would be."""
    is_wide = random.Random(f"wide {seed}:{index}").random() < wide
    scene = draw_scene(random.Random(f"{seed}:{index}"), height=height, width=width, split=split, wide=is_wide)
    rng = random.Random(f"aligned {seed}:{index}")
    return replace(scene, side=rng.choice(SIDES)) if rng.random() < aligned else scene


def mask_pool(
    count: int,
    seed: int,
    *,
    height: int = 256,
    width: int = 256,
    workers: int = 1,
    split: Split = "train",
    wide: float = 0.0,
    aligned: float = 0.0,
) -> tuple[list[Scene], np.ndarray]:
    """The first `count` scenes of a series and their masks, uint8 N H W; the number of workers changes only the speed.

    Workers write into one block of memory that they share with the caller, so a pool takes count x H x W bytes once.
    """
    masks = _shared(count, height, width)
    kind: dict[str, Any] = {"height": height, "width": width, "split": split, "wide": wide, "aligned": aligned}

    def fill(start: int, stop: int) -> list[Scene]:
        scenes = [scene_of(seed, index, **kind) for index in range(start, stop)]
        for index, scene in enumerate(scenes, start=start):
            masks[index] = text_mask(scene)
        return scenes

    chunks = _in_chunks(fill, count, workers)
    return [scene for chunk in chunks for scene in chunk], masks


def edit_of(seed: int, index: int, *, height: int, width: int, split: Split) -> Edit:
    """Edit number `index` of the endless series that `seed` names; the kinds take turns."""
    rng = random.Random(f"edit {seed}:{index}")
    return draw_edit(rng, KINDS[index % len(KINDS)], height=height, width=width, split=split)


def edit_pool(
    count: int, seed: int, *, height: int = 256, width: int = 256, workers: int = 1, split: Split = "train"
) -> tuple[list[Edit], np.ndarray]:
    """The first `count` edits of a series and the masks of both sides, uint8 N 2 H W: source, target."""
    masks = _shared(count, 2, height, width)

    def fill(start: int, stop: int) -> list[Edit]:
        edits = [edit_of(seed, index, height=height, width=width, split=split) for index in range(start, stop)]
        for index, edit in enumerate(edits, start=start):
            masks[index, 0] = text_mask(edit.source)
            masks[index, 1] = text_mask(edit.target) if edit.written else masks[index, 0]
        return edits

    chunks = _in_chunks(fill, count, workers)
    return [edit for chunk in chunks for edit in chunk], masks


def sign_pool(scenes: Sequence[Scene], workers: int = 1) -> np.ndarray:
    """The sign cells of N scenes of one size, uint8 N H/8 W/8."""
    signs = _shared(len(scenes), scenes[0].height // CELL, scenes[0].width // CELL)

    def fill(start: int, stop: int) -> None:
        for index in range(start, stop):
            signs[index] = sign_cells(scenes[index])

    _in_chunks(fill, len(scenes), workers)
    return signs


def _shared(*shape: int) -> np.ndarray:
    """Zeros, uint8, in memory that forked processes share."""
    size = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(1, size)), dtype=np.uint8, count=size).reshape(shape)


def _in_chunks(fill: Callable[[int, int], T], count: int, workers: int) -> list[T]:
    """`fill(start, stop)` of every chunk of `range(count)`, in order, by `workers` processes."""
    chunks = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    if workers <= 1:
        return [fill(*chunk) for chunk in chunks]
    # Forked workers inherit the closure; it could not be sent to them.
    with multiprocessing.get_context("fork").Pool(workers, initializer=_adopt, initargs=(fill,)) as pool:
        return pool.starmap(_call, chunks, chunksize=1)


_adopted: Callable[[int, int], Any]


def _adopt(fill: Callable[[int, int], Any]) -> None:
    global _adopted
    _adopted = fill


def _call(start: int, stop: int) -> Any:
    return _adopted(start, stop)
