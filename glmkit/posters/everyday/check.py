"""Check an image against what its prompt names: colours, shapes, a frame, and where texts stand.

Only pixels are read, and the boxes in which texts were found. Lengths are shares of the shorter side; boxes are left,
top, right, bottom in pixels. H W rows and columns in pixels. The rules:

background   the colour that most pixels have, and those next to it;
colour       right when it is within SAME of the named one in CIELAB, or nearer to it than to every colour that is more
             than DIFFERENT away from the named one: "navy" may be midnight blue, not black;
text         its colour is that of the pixels in its box that differ most from the background; a text that was not found
             is looked for among all pixels that are neither background, shape nor frame;
shape        a patch that `patches.recognise` knows, of the kind and colour named, as many as named, together at the
             place. What stands in the box of a text is a letter;
frame        a ring at one distance from the edge, within FRAME_DEPTH, of which FRAME_SHARE is not background;
place        "middle" or "centre" while the margins on both sides are alike (`check.BALANCE`), else the nearer side; a
             text may stand there alone, or as one group with the texts that are said to stand below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

import numpy as np

from glmkit.posters.check import BALANCE, MIN_SIZE
from glmkit.posters.everyday.colours import COLOURS, lab
from glmkit.posters.everyday.scene import RADII, Box
from glmkit.posters.grammar import THIN_FRAME
from glmkit.posters.patches import SOFT_EDGE, FoundShape, coverage, erode, find_patches, recognise
from glmkit.records import Record

SAME, DIFFERENT = 12.0, 15.0  # CIELAB: cream is 12 from white, beige 15, light pink 23 from pink
NOT_BACKGROUND = 12.0  # CIELAB
INK = 0.8  # of the largest difference from the background: paler pixels are soft edges
FRAME_DEPTH, FRAME_SHARE = 0.1, 0.9
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
BELOW = "below"  # the place of a text that stands under the one before


@dataclass(frozen=True)
class NamedShape(Record):
    """Say which equal shapes a prompt names together; "" and 0 for what it leaves open."""

    kind: str
    colour: str = ""
    place: str = ""
    count: int = 0


@dataclass(frozen=True)
class NamedFrame(Record):
    """Say which frame a prompt names; `thickness` is "thin", "thick" or ""."""

    colour: str = ""
    thickness: str = ""


@dataclass(frozen=True)
class Named(Record):
    """Hold what a prompt names beside its texts; "", None and empty places for what it leaves open.

    `text_colours` and `places` have an entry per text. A place is words of ROWS and COLUMNS, or BELOW. `shapes` is
    empty where there shall be none.
    """

    background: str = ""
    text_colours: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    shapes: tuple[Mapping[str, Any], ...] | None = None
    frame: Mapping[str, str] | None = None


def check_attributes(pixels: np.ndarray, named: Named, boxes: Sequence[Box | None]) -> list[tuple[str, bool]]:
    """Tell which of the named colours, shapes and frame the image has: pairs of a kind of property and whether.

    `pixels` are uint8 H W 3, `boxes` where each text was found.
    """
    seen = _Seen(pixels, [box for box in boxes if box is not None])
    checked = [("background", is_colour(seen.background, named.background))] if named.background else []
    for colour, box in zip(named.text_colours, boxes, strict=False):
        if colour:
            checked.append(("text_colour", seen.has_ink(colour, box)))
    if named.shapes is not None:
        shapes = [NamedShape.from_dict(shape) for shape in named.shapes]
        checked += [pair for shape in shapes for pair in seen.has(shape)] or [("shape", not seen.shapes)]
    if named.frame is not None:
        checked.append(("frame", seen.has_frame(NamedFrame.from_dict(named.frame))))
    return checked


def check_places(named: Named, boxes: Sequence[Box | None], size: tuple[int, int]) -> list[bool]:
    """Tell which of the texts with a named place stand there; `size` is width and height. A lost text does not."""
    checked = []
    for number, place in enumerate(named.places):
        box = boxes[number]
        if place and box is None:
            checked.append(False)
        elif box is not None and place == BELOW:
            above = boxes[number - 1]
            checked.append(above is not None and (box[1] + box[3]) / 2 > above[3])
        elif box is not None and place:
            below = takewhile(lambda after: named.places[after] == BELOW, range(number + 1, len(boxes)))
            group = _union([box, *filter(None, (boxes[after] for after in below))])
            checked.append(stands_at(box, place, size) or stands_at(group, place, size))
    return checked


def stands_at(box: Box, place: str, size: tuple[int, int]) -> bool:
    """Tell whether a box of an image of this width and height stands at a place."""
    here = {_side(box[axis], size[axis] - box[axis + 2], names) for axis, names in ((0, COLUMNS), (1, ROWS))}
    return set(place.split()) <= here


def _side(before: float, behind: float, names: tuple[str, str, str]) -> str:
    if min(before, behind) >= BALANCE * max(before, behind):
        return names[1]
    return names[0] if before < behind else names[2]


def _union(boxes: Sequence[Box]) -> Box:
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def is_colour(rgb: np.ndarray, name: str) -> bool:
    """Tell whether an sRGB colour may be called so, by the rule above."""
    distance = np.linalg.norm(_named_colours() - lab(rgb), axis=1)
    number = list(COLOURS).index(name)
    different = np.linalg.norm(_named_colours() - _named_colours()[number], axis=1) > DIFFERENT
    return bool(distance[number] <= max(SAME, distance[different].min()))


@cache
def _named_colours() -> np.ndarray:
    return lab(np.array([rgb for rgb, _ in COLOURS.values()]))


class _Seen:
    """Hold what an image shows: background, frame, shapes with their patches, and the pixels that may be text."""

    def __init__(self, pixels: np.ndarray, text_boxes: Sequence[Box]) -> None:
        self.pixels, self.colours = pixels, lab(pixels)
        self.background = _commonest(pixels, self.colours)
        self.contrast = np.linalg.norm(self.colours - lab(self.background), axis=-1)
        foreground = self.contrast > NOT_BACKGROUND
        self.frame = _find_frame(foreground)
        if self.frame is not None:
            foreground &= _depth(foreground.shape) > self.frame[1]
        self.shapes: list[tuple[FoundShape, np.ndarray]] = []
        self.text = foreground
        least = MIN_SIZE * RADII[0] * min(foreground.shape)
        for patch in find_patches(foreground):
            if any(_holds(box, patch) for box in text_boxes):
                continue  # a letter, whose centre of gravity is in the box
            shape = recognise(coverage(pixels, self.background, patch), least)
            if shape is not None and not any(_inside(shape, box) for box in text_boxes):
                self.shapes.append((shape, patch))
                self.text = self.text & ~patch

    def has_ink(self, colour: str, box: Box | None) -> bool:
        """Tell whether the text in a box has this colour; all text without a box."""
        mask = np.zeros_like(self.text)
        left, top, right, bottom = (0, 0, None, None) if box is None else (max(0, round(side)) for side in box)
        mask[top:bottom, left:right] = True
        mask &= self.text
        if not mask.any():
            return False
        inked = mask & (self.contrast >= INK * np.percentile(self.contrast[mask], 95))
        return is_colour(np.median(self.pixels[inked], axis=0), colour)

    def has(self, wanted: NamedShape) -> list[tuple[str, bool]]:
        """Tell whether the shapes are there, and, where a place is named, whether they stand at it."""
        same = [patch for shape, patch in self.shapes if shape.kind == wanted.kind]
        if wanted.colour:
            colours = (np.median(self.pixels[erode(patch)], axis=0) for patch in same)
            same = [patch for patch, rgb in zip(same, colours, strict=True) if is_colour(rgb, wanted.colour)]
        checked = [("shape", len(same) == wanted.count if wanted.count else bool(same))]
        if wanted.place:
            height, width = self.text.shape
            at_place = bool(same) and stands_at(_union([_box(patch) for patch in same]), wanted.place, (width, height))
            checked.append(("shape_place", at_place))
        return checked

    def has_frame(self, wanted: NamedFrame) -> bool:
        """Tell whether the frame is there, in its colour and as thick as named."""
        if self.frame is None:
            return False
        first, last = self.frame
        depth = _depth(self.text.shape)
        ring = (depth >= first) & (depth <= last)
        thin = last + 1 - first < THIN_FRAME * min(self.text.shape)
        return (not wanted.colour or is_colour(np.median(self.pixels[ring], axis=0), wanted.colour)) and (
            wanted.thickness in ("", "thin" if thin else "thick")
        )


def _commonest(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return the colour that most pixels have: the median of those near the fullest of 16 x 16 x 16 bins."""
    bins = (pixels // 16).reshape(-1, 3).astype(np.int64) @ (256, 16, 1)
    commonest = np.median(pixels.reshape(-1, 3)[bins == np.bincount(bins).argmax()], axis=0)
    near = np.linalg.norm(colours - lab(commonest), axis=-1) < NOT_BACKGROUND
    background: np.ndarray = np.median(pixels[near], axis=0)
    return background


def _find_frame(foreground: np.ndarray) -> tuple[int, int] | None:
    """Return the pixels between the edge and the first and last ring of a frame; None without one."""
    depth = _depth(foreground.shape)
    limit = round(FRAME_DEPTH * min(foreground.shape))
    rings = np.bincount(depth.ravel())[:limit]
    solid = np.bincount(depth.ravel(), weights=foreground.ravel())[:limit] >= FRAME_SHARE * rings
    if not solid.any():
        return None
    first = int(solid.argmax())
    return first, first + int(np.append(~solid[first:], True).argmax()) - 1


def _depth(shape: tuple[int, ...]) -> np.ndarray:
    """Return for every pixel how many lie between it and the nearest edge: int64 H W."""
    rows, columns = (np.minimum(np.arange(length), np.arange(length)[::-1]) for length in shape)
    depth: np.ndarray = np.minimum(rows[:, None], columns)
    return depth


def _inside(shape: FoundShape, box: Box) -> bool:
    return box[0] <= shape.x <= box[2] and box[1] <= shape.y <= box[3]


def _holds(box: Box, patch: np.ndarray) -> bool:
    """Tell whether a patch and its soft edges (`patches.coverage`) lie in a box."""
    left, top, right, bottom = _box(patch)
    return (
        box[0] <= left - SOFT_EDGE
        and box[1] <= top - SOFT_EDGE
        and right + SOFT_EDGE <= box[2]
        and bottom + SOFT_EDGE <= box[3]
    )


def _box(patch: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(patch.any(axis=1)), np.flatnonzero(patch.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
