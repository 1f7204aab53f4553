"""Checks of a picture against the scene it should show; they read pixels, never a model's opinion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from glmkit.posters.grammar import COLOURS, SHAPES, Scene
from glmkit.posters.render import batch_params, shape_coverage

BORDER = 1 / 32  # of the shorter side; texts stay clear of it, and of the shapes only a stripe crosses it
LEAST_OVERLAP = 0.5  # of intersection over union, for a shape that is there

NAMES = tuple(COLOURS)
_VALUES = np.array([COLOURS[name] for name in NAMES], dtype=np.float32)


def named_colours(image: Image.Image) -> np.ndarray:
    """For every pixel the index in NAMES of the nearest colour in sRGB: int64 H W."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return ((pixels[:, :, None] - _VALUES) ** 2).sum(-1).argmin(-1)


def background_colour(image: Image.Image) -> str:
    """The named colour that most pixels along the edges are nearest to."""
    names, band = named_colours(image), max(1, round(min(image.size) * BORDER))
    inner = np.zeros(names.shape, dtype=bool)
    inner[band:-band, band:-band] = True
    return NAMES[np.bincount(names[~inner], minlength=len(NAMES)).argmax()]


def background_is(image: Image.Image, scene: Scene) -> bool:
    """Whether the picture has the background colour of the scene."""
    return background_colour(image) == scene.background


def shape_is(image: Image.Image, scene: Scene) -> bool:
    """Whether the scene's shape stands at its place in its colour, and no other shape would fit better.

    True for a scene without a shape: nothing was asked for. The picture may have another size than the scene; it is
    compared at the scene's.
    """
    if scene.shape.kind == "none":
        return True
    names = named_colours(image.resize((scene.width, scene.height)))
    reach = 2 * scene.shape.radius
    rows, columns = np.ogrid[: scene.height, : scene.width]
    window = np.abs(rows - scene.shape.y) <= reach
    if scene.shape.kind != "stripe":
        window = window & (np.abs(columns - scene.shape.x) <= reach)
    first, last = scene.text_rows
    window = window & ~((rows >= first) & (rows <= last))
    found = (names == NAMES.index(scene.shape.colour)) & window
    kinds = ("stripe",) if scene.shape.kind == "stripe" else tuple(kind for kind in SHAPES if kind != "stripe")
    overlaps = {kind: _overlap(found, _template(scene, kind) & window) for kind in kinds}
    return overlaps[scene.shape.kind] == max(overlaps.values()) and overlaps[scene.shape.kind] >= LEAST_OVERLAP


def _template(scene: Scene, kind: str) -> np.ndarray:
    drawn = batch_params([replace(scene, shape=replace(scene.shape, kind=kind))])
    return shape_coverage(drawn, scene.height, scene.width)[0, 0].numpy() > 0.5


def _overlap(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found & expected).sum() / max(1, (found | expected).sum()))
