"""Check an image against the scene it should show; the checks read pixels, never a model's opinion.

`read_attributes` reads an image without knowing what it should show, by these rules:

background   the named colour that most pixels in a thin frame along the edges are nearest to (in sRGB);
shape        the largest connected patch of other pixels that is like one of the six shapes. A patch is compared with
             each kind, rendered at its centre of gravity with its area, and is the kind that it overlaps most
             (intersection over union). Patches under MIN_OVERLAP, or MIN_SIZE of a shape, are letters;
  colour     the named colour that most of its inner pixels are nearest to;
  position   the upper or lower half, and the column of the grammar (left, centre, right) that its centre is nearest to;
text         every other patch; its colour is the one that most pixels inside the strokes are nearest to;
  position   "middle" while the margins above and below it are alike (see BALANCE), otherwise top or bottom;
  alignment  "centre" while the margins beside it are alike, otherwise left or right.

Letters need not be legible. An image may have any size: lengths are shares of its shorter side. H W rows and columns in
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from glmkit.posters.grammar import COLOURS, MARGIN, MIN_RADIUS, SHAPES, NamedColours, Scene, Shape
from glmkit.posters.render import batch_scenes, shape_coverage

BORDER = 1 / 32  # of the shorter side; texts stay clear of it, and of the shapes only a stripe crosses it
MIN_OVERLAP = 0.8  # rendered shapes reach 0.99, after nano's VAE 0.9, letters 0.78; dots are rounder, but small
MIN_SIZE = 0.75  # of the smallest radius of the grammar
BALANCE = 0.55  # of the wider margin: on rendered posters the other is over 0.7 in the middle, elsewhere under 0.4
MIN_PATCH = 0.0001  # of the squared shorter side: smaller patches are noise
EDGE_SHARE = 0.01  # of the text pixels may stand above the first row that counts, and below the last


class Palette:
    """Named colours, RGB in 0 to 255: `names`, and their `values` N 3, float32."""

    def __init__(self, colours: NamedColours) -> None:
        self.names, self.values = tuple(colours), np.array([*colours.values()], dtype=np.float32)


GRAMMAR = Palette(COLOURS)


@dataclass(frozen=True)
class Attributes:
    """What an image shows, in the words of the grammar; empty where there is no text, and "none" without a shape."""

    background: str
    text_colour: str = ""
    text_position: str = ""
    text_alignment: str = ""
    shape: str = "none"
    shape_colour: str = ""
    shape_position: str = ""


def check_attributes(image: Image.Image, scene: Scene, palette: Palette = GRAMMAR) -> dict[str, bool]:
    """Tell which attributes of the scene the image has.

    `shape` is kind and colour together, and fails for a shape that the scene does not have. There is no
    `shape_position` when the scene has no shape, and no `text_alignment` when its lines are centred.
    """
    seen, shape = read_attributes(image, palette), scene.shape
    passed = {
        "background": seen.background == scene.background,
        "text_colour": seen.text_colour == scene.text_colour,
        "text_position": seen.text_position == scene.position,
        "shape": (seen.shape, seen.shape_colour) == (shape.kind, shape.colour),
    }
    if shape.kind != "none":
        passed["shape_position"] = seen.shape_position == shape.position
    if scene.alignment != "centre":
        passed["text_alignment"] = seen.text_alignment == scene.alignment
    return passed


def read_attributes(image: Image.Image, palette: Palette = GRAMMAR) -> Attributes:
    """Read an image by the rules above; a colour is one of `palette`."""
    pixels, colours = np.asarray(image.convert("RGB")), nearest_colours(image, palette)
    background = _edge_colour(colours)
    patches = _patches(colours != background, MIN_PATCH * min(image.size) ** 2)
    background_rgb = palette.values[background]
    shapes = [(patch, *shape) for patch in patches if (shape := _recognise(_coverage(pixels, background_rgb, patch)))]
    shape_patch, kind, position = max(shapes, key=lambda shape: shape[0].sum(), default=(None, "none", ""))
    text = np.zeros(colours.shape, dtype=bool)
    for patch in patches:
        if patch is not shape_patch:
            text |= patch
    return Attributes(
        palette.names[background],
        text_colour=palette.names[_inner_colour(colours, text)] if text.any() else "",
        text_position=_name_margins(text.sum(axis=1), ("top", "middle", "bottom")) if text.any() else "",
        text_alignment=_name_margins(text.sum(axis=0), ("left", "centre", "right")) if text.any() else "",
        shape=kind,
        shape_colour="" if shape_patch is None else palette.names[_inner_colour(colours, shape_patch)],
        shape_position=position,
    )


def nearest_colours(image: Image.Image, palette: Palette = GRAMMAR) -> np.ndarray:
    """Return for every pixel the index in `palette` of the nearest colour in sRGB: int64 H W."""
    pixels, values = np.asarray(image.convert("RGB")), palette.values
    nearest = np.empty(pixels.shape[:2], dtype=np.int64)
    for row, levels in enumerate(pixels):  # distances of a whole image would take 4 bytes a pixel and colour
        # The squared distance, halved and negated, without the term that all colours share.
        nearest[row] = (levels.astype(np.float32) @ values.T - (values**2).sum(-1) / 2).argmax(-1)
    return nearest


def scale(image: Image.Image, width: int, height: int) -> Image.Image:
    """Convert the image to RGB of this size."""
    image = image.convert("RGB")
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def most_frequent(colours: np.ndarray) -> int:
    """Return the colour index that occurs most often."""
    return int(np.bincount(colours).argmax())


def _edge_colour(colours: np.ndarray) -> int:
    width = max(1, round(min(colours.shape) * BORDER))
    edge = np.ones(colours.shape, dtype=bool)
    edge[width:-width, width:-width] = False
    return most_frequent(colours[edge])


def _inner_colour(colours: np.ndarray, patch: np.ndarray) -> int:
    return most_frequent(colours[_erode(patch)])


def _erode(patch: np.ndarray) -> np.ndarray:
    """Return the pixels whose four neighbours belong to the patch, too, because edges are mixed with the background.

    A patch that is nowhere so thick is returned whole.
    """
    core = np.logical_and.reduce((patch, *_neighbours(patch)))
    return core if core.any() else patch


def _neighbours(patch: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the patch moved by one pixel in each of the four directions."""
    padded = np.pad(patch, 1)
    return padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]


def _name_margins(counts: np.ndarray, names: tuple[str, str, str]) -> str:
    """Return the first name when the text stands nearer the start, the last when nearer the end, else the middle one.

    `counts` are the text pixels of every row (or column); EDGE_SHARE of them at each end does not count.
    """
    share = np.cumsum(counts) / counts.sum()
    first, last = np.searchsorted(share, (EDGE_SHARE, 1 - EDGE_SHARE))
    before, behind = int(first), len(counts) - 1 - int(last)
    if min(before, behind) >= BALANCE * max(before, behind):
        return names[1]
    return names[0] if before < behind else names[2]


def _coverage(pixels: np.ndarray, background: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Return the share of every pixel that the patch covers, float32 H W.

    The share is how far a pixel's colour has moved from the background's towards the patch's, which keeps outlines
    exact where a VAE or a codec has softened the edges.
    """
    near = patch
    for _ in range(2):
        near = np.logical_or.reduce((near, *_neighbours(near)))
    contrast = np.median(pixels[_erode(patch)].astype(np.float32), axis=0) - background
    coverage = np.zeros(patch.shape, dtype=np.float32)
    coverage[near] = ((pixels[near] - background) @ contrast / (contrast @ contrast)).clip(0, 1)
    return coverage


def _recognise(coverage: np.ndarray) -> tuple[str, str] | None:
    """Return kind and position of the shape with this coverage of the pixels, H W in [0, 1]; None for a letter."""
    (height, width), area = coverage.shape, float(coverage.sum())
    radii = {kind: math.sqrt(area / unit) for kind, unit in _unit_areas().items()}
    radii["stripe"] = 1.5 * area / width  # the grammar makes it 2/3 radius thick
    min_radius = MIN_SIZE * MIN_RADIUS * min(height, width)
    if max(radii.values()) < min_radius:
        return None
    y = float(coverage.sum(axis=1) @ (np.arange(height) + 0.5)) / area
    x = float(coverage.sum(axis=0) @ (np.arange(width) + 0.5)) / area
    overlaps = _overlaps(coverage, x, y, radii)
    kind = max(overlaps, key=lambda name: overlaps[name])
    if overlaps[kind] < MIN_OVERLAP or radii[kind] < min_radius:
        return None
    edge = MARGIN * min(height, width) + radii[kind]
    centres = {"left": edge, "": width / 2, "right": width - edge}
    column = "" if kind == "stripe" else min(centres, key=lambda name: abs(centres[name] - x))
    return kind, f"{'top' if y < height / 2 else 'bottom'} {column}".strip()


def _overlaps(coverage: np.ndarray, x: float, y: float, radii: dict[str, float]) -> dict[str, float]:
    """Return the intersection over union with each kind, at (x, y) in pixels with its radius, all of the same area."""
    rows, columns = np.nonzero(coverage)
    top, left = int(rows.min()), int(columns.min())
    crop, area = coverage[top : rows.max() + 1, left : columns.max() + 1], float(coverage.sum())
    rendered = _render_shapes(crop.shape, x - left, y - top, {**radii, "stripe": radii["stripe"] / 3})
    intersections = {kind: float(np.minimum(crop, share).sum()) for kind, share in rendered}
    return {kind: shared / (2 * area - shared) for kind, shared in intersections.items()}


@cache
def _unit_areas() -> dict[str, float]:
    """Return the area of each kind but the stripe at radius 1."""
    radii = {kind: 100.0 for kind in SHAPES if kind != "stripe"}
    return {kind: float(share.sum()) / 1e4 for kind, share in _render_shapes((220, 220), 110.0, 110.0, radii)}


def _render_shapes(
    size: tuple[int, int], x: float, y: float, radii: dict[str, float]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each kind with the share of every pixel that it covers, H W, as the renderer paints it."""
    for kind, radius in radii.items():  # one by one: all together take 20 times the memory of a large image
        scene = Scene(*size, "white", "black", "", "", (), Shape(kind, "black", "", x, y, radius))
        yield kind, shape_coverage(batch_scenes([scene]), *size)[0, 0].numpy()


def _patches(mask: np.ndarray, min_size: float) -> list[np.ndarray]:
    """Return the 4-connected patches of at least `min_size` pixels, each bool H W."""
    labels = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape), np.int32(0))
    while not np.array_equal(labels, spread := _spread_along_rows(_spread_along_rows(labels).T).T):
        labels = spread
    numbers, sizes = np.unique(labels[mask], return_counts=True)
    return [labels == number for number in numbers[sizes >= min_size]]


def _spread_along_rows(labels: np.ndarray) -> np.ndarray:
    """Give every run of labelled pixels in a row the largest label in it."""
    flat = np.pad(labels, ((0, 0), (0, 1))).ravel()  # the zero at the end of a row separates it from the next
    starts = np.flatnonzero(np.diff(flat > 0, prepend=flat[0] == 0))
    largest = np.maximum.reduceat(flat, starts)
    return np.repeat(largest, np.diff(starts, append=flat.size)).reshape(len(labels), -1)[:, :-1]
