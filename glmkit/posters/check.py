"""Checks of an image against the scene it should show; they read pixels, never a model's opinion.

`look` reads an image without knowing what it should show, by these rules:

background   the named colour that most pixels in a thin frame along the edges are nearest to (in sRGB);
shape        the largest connected patch of other pixels that is like one of the six shapes. A patch is compared with
             each kind, drawn at its centre of gravity with its area, and is the kind that it overlaps most
             (intersection over union). Patches under LEAST_OVERLAP, or SMALLEST of a shape, are letters;
its colour   the named colour that most of its inner pixels are nearest to;
its place    the upper or lower half, and the column of the grammar (left, centre, right) that its centre is nearest to;
text         every other patch; its colour is the one that most pixels inside the strokes are nearest to;
its position "middle" while the margins above and below it are alike (see BALANCE), otherwise top or bottom;
its side     "centre" while the margins beside it are alike, otherwise left or right.

Letters need not be legible. An image may have any size: lengths are shares of its shorter side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from glmkit.posters.grammar import COLOURS, MARGIN, MIN_RADIUS, SHAPES, Scene, Shape
from glmkit.posters.render import batch_params, shape_coverage

BORDER = 1 / 32  # of the shorter side; texts stay clear of it, and of the shapes only a stripe crosses it
LEAST_OVERLAP = 0.8  # rendered shapes reach 0.99, after nano's VAE 0.9, letters 0.78; dots are rounder, but small
SMALLEST = 0.75  # of the smallest radius of the grammar
BALANCE = 0.55  # of the wider margin: on rendered posters the other is over 0.7 in the middle, elsewhere under 0.4
SPECK = 0.0001  # of the squared shorter side: fewer connected pixels are no ink
EDGE_SHARE = 0.01  # of the ink may stand above the first row that counts, and below the last


class Palette:
    """Named colours, RGB in 0 to 255: `names` N, and their `values` N 3, float32."""

    def __init__(self, colours: Mapping[str, tuple[int, int, int]]) -> None:
        self.names, self.values = tuple(colours), np.array([*colours.values()], dtype=np.float32)


GRAMMAR = Palette(COLOURS)
NAMES = GRAMMAR.names


@dataclass(frozen=True)
class Look:
    """What an image shows, in the words of the grammar; empty where there is no text, and "none" without a shape."""

    background: str
    text_colour: str = ""
    text_position: str = ""
    text_side: str = ""
    shape: str = "none"
    shape_colour: str = ""
    shape_position: str = ""


def checks(image: Image.Image, scene: Scene, palette: Palette = GRAMMAR) -> dict[str, bool]:
    """Tell which attributes of the scene the image has.

    `shape` is kind and colour together, and fails for a shape that the scene does not have. There is no
    `shape_position` when the scene has no shape, and no `text_side` when its lines are centred.
    """
    seen, shape = look(image, palette), scene.shape
    found = {
        "background": seen.background == scene.background,
        "text_colour": seen.text_colour == scene.text_colour,
        "text_position": seen.text_position == scene.position,
        "shape": (seen.shape, seen.shape_colour) == (shape.kind, shape.colour),
    }
    if shape.kind != "none":
        found["shape_position"] = seen.shape_position == shape.place
    if scene.side != "centre":
        found["text_side"] = seen.text_side == scene.side
    return found


def look(image: Image.Image, palette: Palette = GRAMMAR) -> Look:
    """Read an image by the rules above; a colour is one of `palette`."""
    pixels, names = _levels(image), named_colours(image, palette)
    background = _frame_colour(names)
    patches = _patches(names != background, SPECK * min(image.size) ** 2)
    ground = palette.values[background]
    shapes = [(patch, *shape) for patch in patches if (shape := _shape(_coverage(pixels, ground, patch)))]
    chosen, kind, place = max(shapes, key=lambda shape: shape[0].sum(), default=(None, "none", ""))
    ink = np.zeros(names.shape, dtype=bool)
    for patch in patches:
        if patch is not chosen:
            ink |= patch
    return Look(
        palette.names[background],
        text_colour=palette.names[_inside_colour(names, ink)] if ink.any() else "",
        text_position=_place(ink.sum(axis=1), ("top", "middle", "bottom")) if ink.any() else "",
        text_side=_place(ink.sum(axis=0), ("left", "centre", "right")) if ink.any() else "",
        shape=kind,
        shape_colour="" if chosen is None else palette.names[_inside_colour(names, chosen)],
        shape_position=place,
    )


def named_colours(image: Image.Image, palette: Palette = GRAMMAR) -> np.ndarray:
    """For every pixel the index in `palette` of the nearest colour in sRGB: int64 H W."""
    values = palette.values
    pixels = _levels(image)
    return (pixels @ values.T - (values**2).sum(-1) / 2).argmax(-1)  # the distance less what all have in common


def scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image as RGB of this size."""
    image = image.convert("RGB")
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def _levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32)


def _frame_colour(names: np.ndarray) -> int:
    band = max(1, round(min(names.shape) * BORDER))
    frame = np.ones(names.shape, dtype=bool)
    frame[band:-band, band:-band] = False
    return int(np.bincount(names[frame]).argmax())


def _inside_colour(names: np.ndarray, patch: np.ndarray) -> int:
    return int(np.bincount(names[_inside(patch)]).argmax())


def _inside(patch: np.ndarray) -> np.ndarray:
    """The pixels whose four neighbours belong to the patch, too, because edges are mixed with the background; the whole
    patch when it is nowhere so thick."""
    core = np.logical_and.reduce((patch, *_neighbours(patch)))
    return core if core.any() else patch


def _neighbours(patch: np.ndarray) -> tuple[np.ndarray, ...]:
    """The patch moved by one pixel in each of the four directions."""
    padded = np.pad(patch, 1)
    return padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]


def _place(ink: np.ndarray, names: tuple[str, str, str]) -> str:
    """Which of the names says where the rows (or columns) stand that hold all ink but EDGE_SHARE at each end; `ink` is
    how much each holds."""
    share = np.cumsum(ink) / ink.sum()
    first, last = np.searchsorted(share, (EDGE_SHARE, 1 - EDGE_SHARE))
    before, behind = int(first), len(ink) - 1 - int(last)
    if min(before, behind) >= BALANCE * max(before, behind):
        return names[1]
    return names[0] if before < behind else names[2]


def _coverage(pixels: np.ndarray, background: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Share of every pixel that the patch covers, float32 H W: how far its colour has moved from the background's
    towards the patch's own. This keeps outlines exact where a VAE or a codec has softened the edges."""
    near = patch
    for _ in range(2):
        near = np.logical_or.reduce((near, *_neighbours(near)))
    way = np.median(pixels[_inside(patch)], axis=0) - background
    coverage = np.zeros(patch.shape, dtype=np.float32)
    coverage[near] = ((pixels[near] - background) @ way / (way @ way)).clip(0, 1)
    return coverage


def _shape(coverage: np.ndarray) -> tuple[str, str] | None:
    """Kind and place of the shape that covers these shares of the pixels, H W in [0, 1]; None for a letter."""
    (height, width), area = coverage.shape, float(coverage.sum())
    radii = {kind: math.sqrt(area / unit) for kind, unit in _unit_areas().items()}
    radii["stripe"] = 1.5 * area / width  # the grammar makes it 2/3 radius thick
    smallest = SMALLEST * MIN_RADIUS * min(height, width)
    if max(radii.values()) < smallest:
        return None
    y = float(coverage.sum(axis=1) @ (np.arange(height) + 0.5)) / area
    x = float(coverage.sum(axis=0) @ (np.arange(width) + 0.5)) / area
    overlaps = _overlaps(coverage, x, y, radii)
    kind = max(overlaps, key=lambda name: overlaps[name])
    if overlaps[kind] < LEAST_OVERLAP or radii[kind] < smallest:
        return None
    edge = MARGIN * min(height, width) + radii[kind]
    centres = {"left": edge, "": width / 2, "right": width - edge}
    side = "" if kind == "stripe" else min(centres, key=lambda name: abs(centres[name] - x))
    return kind, f"{'top' if y < height / 2 else 'bottom'} {side}".strip()


def _overlaps(coverage: np.ndarray, x: float, y: float, radii: dict[str, float]) -> dict[str, float]:
    """Intersection over union with each kind, drawn at (x, y) in pixels with its radius, all of the same area."""
    rows, columns = np.nonzero(coverage)
    top, left = int(rows.min()), int(columns.min())
    window, area = coverage[top : rows.max() + 1, left : columns.max() + 1], float(coverage.sum())
    drawn = _drawn(window.shape, x - left, y - top, {**radii, "stripe": radii["stripe"] / 3})
    common = {kind: float(np.minimum(window, share).sum()) for kind, share in drawn.items()}
    return {kind: both / (2 * area - both) for kind, both in common.items()}


@cache
def _unit_areas() -> dict[str, float]:
    """Area of each kind but the stripe at radius 1."""
    radii = {kind: 100.0 for kind in SHAPES if kind != "stripe"}
    return {kind: float(share.sum()) / 1e4 for kind, share in _drawn((220, 220), 110.0, 110.0, radii).items()}


def _drawn(size: tuple[int, int], x: float, y: float, radii: dict[str, float]) -> dict[str, np.ndarray]:
    """The share of every pixel that each kind covers, H W, as the renderer draws it."""
    scenes = [Scene(*size, "white", "black", "", "", (), Shape(kind, "black", "", x, y, radii[kind])) for kind in radii]
    return dict(zip(radii, shape_coverage(batch_params(scenes), *size)[:, 0].numpy(), strict=True))


def _patches(mask: np.ndarray, least: float) -> list[np.ndarray]:
    """The patches of at least `least` pixels that hang together by their sides, each bool H W."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while not np.array_equal(labels, spread := _along_rows(_along_rows(labels).T).T):
        labels = spread
    numbers, sizes = np.unique(labels[mask], return_counts=True)
    return [labels == number for number in numbers[sizes >= least]]


def _along_rows(labels: np.ndarray) -> np.ndarray:
    """Gives every run of labelled pixels in a row the largest label in it."""
    flat = np.pad(labels, ((0, 0), (0, 1))).ravel()  # the zero at the end of a row parts it from the next
    starts = np.flatnonzero(np.diff(flat > 0, prepend=flat[0] == 0))
    largest = np.maximum.reduceat(flat, starts)
    return np.repeat(largest, np.diff(starts, append=flat.size)).reshape(len(labels), -1)[:, :-1]
