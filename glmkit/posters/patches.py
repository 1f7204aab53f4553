"""Find connected patches of pixels, and tell shapes from letters.

A patch is compared with each kind of shape, rendered at its centre of gravity with its area, and is the kind that it
overlaps most (intersection over union). Patches under MIN_OVERLAP are letters. H W rows and columns in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from glmkit.posters.grammar import SHAPES, Scene, Shape
from glmkit.posters.render import batch_scenes, shape_coverage

MIN_OVERLAP = 0.8  # rendered shapes reach 0.99, after nano's VAE 0.9, letters 0.78; dots are rounder, but small
SOFT_EDGE = 2  # pixels around a patch in which its colour may be mixed with the background's
MOST_PIXELS = 1 << 16  # of shapes rendered together
MIN_PATCH = 0.0001  # of the squared shorter side: smaller patches are noise


class FoundShape(NamedTuple):
    """A shape in an image: its kind, centre of gravity and radius in pixels."""

    kind: str
    x: float
    y: float
    radius: float


def erode(patch: np.ndarray) -> np.ndarray:
    """Return the pixels whose four neighbours belong to the patch, too, because edges are mixed with the background.

    A patch that is nowhere so thick is returned whole.
    """
    core = np.logical_and.reduce((patch, *_neighbours(patch)))
    return core if core.any() else patch


def _neighbours(patch: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the patch moved by one pixel in each of the four directions."""
    padded = np.zeros((patch.shape[0] + 2, patch.shape[1] + 2), dtype=bool)
    padded[1:-1, 1:-1] = patch
    return padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]


def coverage(pixels: np.ndarray, background: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Return the share of every pixel that the patch covers, float32 H W.

    The share is how far a pixel's colour has moved from the background's towards the patch's, which keeps outlines
    exact where a VAE or a codec has softened the edges.
    """
    rows, columns = _around(patch, SOFT_EDGE)
    here, near = pixels[rows, columns], patch[rows, columns]
    for _ in range(SOFT_EDGE):
        near = np.logical_or.reduce((near, *_neighbours(near)))
    contrast = np.median(here[erode(patch[rows, columns])].astype(np.float32), axis=0) - background
    covered = np.zeros(patch.shape, dtype=np.float32)
    covered[rows, columns][near] = ((here[near] - background) @ contrast / (contrast @ contrast)).clip(0, 1)
    return covered


def _around(patch: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Return the rows and the columns of a patch with a margin of so many pixels, where the image has them."""
    rows, columns = (np.flatnonzero(patch.any(axis=axis)) for axis in (1, 0))
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    return slice(top, rows[-1] + 1 + margin), slice(left, columns[-1] + 1 + margin)


def recognise(covered: np.ndarray, min_radius: float) -> FoundShape | None:
    """Return the shape that covers the pixels so, H W in [0, 1]; None for a letter, or under `min_radius` pixels."""
    width, area = covered.shape[1], float(covered.sum())
    radii = {kind: math.sqrt(area / unit) for kind, unit in _unit_areas().items()}
    radii["stripe"] = 1.5 * area / width  # the grammar makes it 2/3 radius thick
    if max(radii.values()) < min_radius:
        return None
    y = float(covered.sum(axis=1) @ (np.arange(len(covered)) + 0.5)) / area
    x = float(covered.sum(axis=0) @ (np.arange(width) + 0.5)) / area
    overlaps = _overlaps(covered, x, y, radii)
    kind = max(overlaps, key=lambda name: overlaps[name])
    if overlaps[kind] < MIN_OVERLAP or radii[kind] < min_radius:
        return None
    return FoundShape(kind, x, y, radii[kind])


def _overlaps(covered: np.ndarray, x: float, y: float, radii: dict[str, float]) -> dict[str, float]:
    """Return the intersection over union with each kind, at (x, y) in pixels with its radius, all of the same area."""
    rows, columns = np.nonzero(covered)
    top, left = int(rows.min()), int(columns.min())
    crop, area = covered[top : rows.max() + 1, left : columns.max() + 1], float(covered.sum())
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
    kinds = list(radii)
    # As many at once as take less than the rest of the memory for an image: for a large patch one by one.
    at_once = max(1, MOST_PIXELS // (size[0] * size[1]))
    for start in range(0, len(kinds), at_once):
        some = kinds[start : start + at_once]
        shapes = (Shape(kind, "black", "", x, y, radii[kind]) for kind in some)
        scenes = [Scene(*size, "white", "black", "", "", (), shape) for shape in shapes]
        yield from zip(some, shape_coverage(batch_scenes(scenes), *size)[:, 0].numpy(), strict=True)


def find_patches(mask: np.ndarray) -> list[np.ndarray]:
    """Return the 4-connected patches, each bool H W, without those that are noise."""
    labels = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape), np.int32(0))
    while not np.array_equal(labels, spread := _spread_along_rows(_spread_along_rows(labels).T).T):
        labels = spread
    numbers, sizes = np.unique(labels[mask], return_counts=True)
    return [labels == number for number in numbers[sizes >= MIN_PATCH * min(mask.shape) ** 2]]


def _spread_along_rows(labels: np.ndarray) -> np.ndarray:
    """Give every run of labelled pixels in a row the largest label in it."""
    flat = np.pad(labels, ((0, 0), (0, 1))).ravel()  # the zero at the end of a row separates it from the next
    starts = np.flatnonzero(np.diff(flat > 0, prepend=flat[0] == 0))
    largest = np.maximum.reduceat(flat, starts)
    return np.repeat(largest, np.diff(starts, append=flat.size)).reshape(len(labels), -1)[:, :-1]
