"""Render text masks, which are coloured later on any device, and label maps: which character or shape is where.

H W rows and columns in pixels, N scenes.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glmkit.posters import fonts
from glmkit.posters.edits import KINDS, Edit, sample_edit
from glmkit.posters.grammar import MARGIN, SHAPES, Scene, sample_scene
from glmkit.posters.words import Split

T = TypeVar("T")
S = TypeVar("S")
CHUNK = 256
CELL = 8  # pixels, height and width of a latent position


def text_mask(scene: Scene) -> np.ndarray:
    """Render the coverage of every pixel by letters, and by the frame, which has their colour: uint8 H W, 0 to 255."""
    canvas = Image.new("L", (scene.width, scene.height), 0)
    draw = ImageDraw.Draw(canvas)
    x, anchor, _ = _anchor(scene)
    for line in scene.lines:
        font = fonts.load(scene.font, line.size)
        draw.text((x, line.baseline), line.text, fill=255, font=font, anchor=anchor)
    if scene.frame.thickness:
        gap = scene.frame.gap
        box = (gap, gap, scene.width - 1 - gap, scene.height - 1 - gap)
        draw.rectangle(box, outline=255, width=scene.frame.thickness)
    return np.asarray(canvas)


def _anchor(scene: Scene) -> tuple[int, str, float]:
    """Return the column at which lines are anchored, Pillow's anchor, and the share of a line that stands before it."""
    edge = round(MARGIN * min(scene.height, scene.width))
    columns = {
        "left": (edge, "ls", 0.0),
        "centre": (scene.width // 2, "ms", 0.5),
        "right": (scene.width - edge, "rs", 1.0),
    }
    return columns[scene.alignment]


def character_label_map(scene: Scene) -> np.ndarray:
    """Label every cell of 8x8 pixels: uint8 H/8 W/8, a character's ASCII code, 1 to 6 for a shape, 0 for neither.

    Shapes are numbered as in `grammar.SHAPES`. A character has the cells whose centre lies within its advance width,
    between the baseline and the top of capitals. A shape has those within its radius, of a stripe's middle row.
    """
    labels = np.zeros((scene.height // CELL, scene.width // CELL), dtype=np.uint8)
    shape = scene.shape
    if shape.kind != "none":
        label_shape(labels, shape.kind, shape.x, shape.y, shape.radius)
    capital = fonts.proportions(scene.font).capital
    x, _, share = _anchor(scene)
    for line in scene.lines:
        ascii_codes = line.text.replace(" ", "\0").encode("ascii")
        font, height = fonts.load(scene.font, line.size), capital * line.size
        label_line(labels, line.text, list(ascii_codes), font, x, share, line.baseline, height)
    return labels


def label_shape(labels: np.ndarray, kind: str, x: float, y: float, radius: float) -> None:
    """Label the cells of a shape; its centre and radius are in pixels."""
    rows, columns = _cell_centres(labels)
    right = 0.0 if kind == "stripe" else columns - x
    distance = np.hypot((rows - y)[:, None], np.broadcast_to(right, columns.shape))
    labels[distance < radius] = 1 + SHAPES.index(kind)


def label_line(
    labels: np.ndarray,
    line: str,
    numbers: Sequence[int],
    font: ImageFont.FreeTypeFont,
    x: float,
    share: float,
    baseline: float,
    height: float,
) -> None:
    """Label the cells of each character of a line with its number.

    A `share` of the line stands before column `x`; its capitals reach `height` pixels above the baseline.
    """
    rows, columns = _cell_centres(labels)
    ends = np.array([font.getlength(line[: count + 1]) for count in range(len(line))])
    start = x - share * ends[-1]
    character = np.searchsorted(ends, columns - start, side="right")
    inside = (columns >= start) & (character < len(ends))
    line_rows = (rows >= baseline - height) & (rows < baseline)
    labels[np.ix_(line_rows, inside)] = np.array(numbers, dtype=labels.dtype)[character[inside]]


def _cell_centres(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel rows and columns in the middle of the cells."""
    rows, columns = (CELL * (np.arange(length) + 0.5) for length in labels.shape)
    return rows, columns


def indexed_scene(seed: int, index: int, *, height: int, width: int, split: Split) -> Scene:
    """Sample scene number `index` of the endless series that `seed` names."""
    return sample_scene(random.Random(f"{seed}:{index}"), height=height, width=width, split=split)


def scenes_with_masks(
    count: int, seed: int, *, height: int = 256, width: int = 256, workers: int = 1, split: Split = "train"
) -> tuple[list[Scene], np.ndarray]:
    """Sample the first `count` scenes of a series, with their masks, uint8 N H W, whatever the number of workers.

    Workers write into one block of memory that they share with the caller, so the masks take count x H x W bytes once.
    """

    def sample(index: int) -> tuple[Scene, np.ndarray]:
        scene = indexed_scene(seed, index, height=height, width=width, split=split)
        return scene, text_mask(scene)

    return with_masks(sample, shared(count, height, width), workers)


def indexed_edit(seed: int, index: int, *, height: int, width: int, split: Split) -> Edit:
    """Sample edit number `index` of the endless series that `seed` names; the kinds take turns."""
    rng = random.Random(f"edit {seed}:{index}")
    return sample_edit(rng, KINDS[index % len(KINDS)], height=height, width=width, split=split)


def edits_with_masks(
    count: int, seed: int, *, height: int = 256, width: int = 256, workers: int = 1, split: Split = "train"
) -> tuple[list[Edit], np.ndarray]:
    """Sample the first `count` edits of a series, with the masks of condition and target, uint8 N 2 H W."""

    def sample(index: int) -> tuple[Edit, tuple[np.ndarray, ...]]:
        edit = indexed_edit(seed, index, height=height, width=width, split=split)
        return edit, (text_mask(edit.condition), text_mask(edit.target))

    return with_masks(sample, shared(count, 2, height, width), workers)


def with_masks(sample: Callable[[int], tuple[T, Any]], masks: np.ndarray, workers: int) -> tuple[list[T], np.ndarray]:
    """Sample what belongs to every index of `masks`, in `workers` processes, and fill these shared masks."""

    def fill(start: int, stop: int) -> list[T]:
        sampled = []
        for index in range(start, stop):
            one, masks[index] = sample(index)
            sampled.append(one)
        return sampled

    return [one for chunk in in_chunks(fill, len(masks), workers) for one in chunk], masks


def character_label_maps(scenes: Sequence[Scene], workers: int = 1) -> np.ndarray:
    """Label the cells of N scenes of one size: uint8 N H/8 W/8, as `character_label_map`."""
    return label_maps(character_label_map, scenes, np.uint8, workers)


def label_maps(
    label: Callable[[S], np.ndarray], scenes: Sequence[S], dtype: type[np.integer[Any]], workers: int
) -> np.ndarray:
    """Collect the label maps of N scenes of one size, which `workers` processes make: N H/8 W/8."""
    shape, width = label(scenes[0]).shape, np.dtype(dtype).itemsize
    labels = shared(len(scenes), *shape[:-1], shape[-1] * width).view(dtype)

    def fill(start: int, stop: int) -> None:
        for index in range(start, stop):
            labels[index] = label(scenes[index])

    in_chunks(fill, len(scenes), workers)
    return labels


def shared(*shape: int) -> np.ndarray:
    """Allocate zeros, uint8, in memory that forked processes share."""
    size = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(1, size)), dtype=np.uint8, count=size).reshape(shape)


def in_chunks(fill: Callable[[int, int], T], count: int, workers: int) -> list[T]:
    """Call `fill(start, stop)` for every chunk of `range(count)` in `workers` processes; results are in order.

    Where no process can fork, as on Windows, this one does all of it.
    """
    chunks = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    if workers <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        return [fill(*chunk) for chunk in chunks]
    # Forked workers inherit the closure; it could not be sent to them.
    with multiprocessing.get_context("fork").Pool(workers, initializer=_set_fill, initargs=(fill,)) as pool:
        return pool.starmap(_call_fill, chunks, chunksize=1)


_fill: Callable[[int, int], Any]


def _set_fill(fill: Callable[[int, int], Any]) -> None:
    global _fill
    _fill = fill


def _call_fill(start: int, stop: int) -> Any:
    return _fill(start, stop)
