"""Check an image against the scene it should show; the checks read pixels, never a model's opinion.

`read_attributes` reads an image without knowing what it should show, by these rules:

background   the named colour that most pixels in a thin frame along the edges are nearest to (in sRGB);
shape        the largest connected patch of other pixels that is like one of the six shapes (`patches.recognise`) and
             has at least MIN_SIZE of a shape;
  colour     the named colour that most of its inner pixels are nearest to;
  position   the upper or lower half, and the column of the grammar (left, centre, right) that its centre is nearest to;
text         every other patch; its colour is the one that most pixels inside the strokes are nearest to;
  position   "middle" while the margins above and below it are alike (see BALANCE), otherwise top or bottom;
  alignment  "centre" while the margins beside it are alike, otherwise left or right.

Letters need not be legible. An image may have any size: lengths are shares of its shorter side. H W rows and columns in
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from glmkit.posters.grammar import COLOURS, MARGIN, MIN_RADIUS, NamedColours, Scene
from glmkit.posters.patches import FoundShape, coverage, erode, find_patches, recognise

BORDER = 1 / 32  # of the shorter side; texts stay clear of it, and of the shapes only a stripe crosses it
MIN_SIZE = 0.75  # of the smallest radius of the grammar
BALANCE = 0.55  # of the wider margin: on rendered posters the other is over 0.7 in the middle, elsewhere under 0.4
EDGE_SHARE = 0.01  # of the text pixels may stand above the first row that counts, and below the last


class Palette:
    """Named colours, RGB in 0 to 255: `names`, and their `values` N 3, float32."""

    def __init__(self, colours: NamedColours) -> None:
        self.names, self.values = tuple(colours), np.array([*colours.values()], dtype=np.float32)


GRAMMAR = Palette(COLOURS)


@dataclass(frozen=True)
class Attributes:
    """Say what an image shows, in the words of the grammar: empty where there is no text, "none" without a shape."""

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
    patches = find_patches(colours != background)
    min_radius = MIN_SIZE * MIN_RADIUS * min(image.size)
    covered = (coverage(pixels, palette.values[background], patch) for patch in patches)
    found = ((patch, recognise(share, min_radius)) for patch, share in zip(patches, covered, strict=True))
    shapes = [(patch, shape) for patch, shape in found if shape is not None]
    shape_patch, shape = max(shapes, key=lambda pair: pair[0].sum(), default=(None, None))
    text = np.zeros(colours.shape, dtype=bool)
    for patch in patches:
        if patch is not shape_patch:
            text |= patch
    return Attributes(
        palette.names[background],
        text_colour=palette.names[_inner_colour(colours, text)] if text.any() else "",
        text_position=_name_margins(text.sum(axis=1), ("top", "middle", "bottom")) if text.any() else "",
        text_alignment=_name_margins(text.sum(axis=0), ("left", "centre", "right")) if text.any() else "",
        shape="none" if shape is None else shape.kind,
        shape_colour="" if shape_patch is None else palette.names[_inner_colour(colours, shape_patch)],
        shape_position="" if shape is None else _position(shape, *image.size),
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
    return most_frequent(colours[erode(patch)])


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


def _position(shape: FoundShape, width: int, height: int) -> str:
    """Name the place of a shape as the grammar does."""
    edge = MARGIN * min(height, width) + shape.radius
    centres = {"left": edge, "": width / 2, "right": width - edge}
    column = "" if shape.kind == "stripe" else min(centres, key=lambda name: abs(centres[name] - shape.x))
    return f"{'top' if shape.y < height / 2 else 'bottom'} {column}".strip()
