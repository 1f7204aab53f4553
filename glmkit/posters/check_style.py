"""Check an image against the framed poster of `style_set` that it should show; the checks read pixels alone.

The inner poster is checked as any poster is, by the style's five colours. The frame is right when most pixels of both
borders have the colour of the letters, and most of the gap between them that of the background. An image of another
size is scaled to that of the style.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from glmkit.posters.check import Palette, check_attributes, most_frequent, nearest_colours, scale
from glmkit.posters.grammar import Scene
from glmkit.posters.style_set import COLOURS, FRAME, INNER_BORDER, OUTER_BORDER, SIZE

STYLE = Palette(COLOURS)


def check_style(image: Image.Image, scene: Scene) -> dict[str, bool]:
    """Tell which attributes of the framed poster the image has: those of `check.check_attributes`, and `frame`."""
    image = scale(image, SIZE, SIZE)
    inner = image.crop((FRAME, FRAME, SIZE - FRAME, SIZE - FRAME))
    return {**check_attributes(inner, scene, STYLE), "frame": _is_framed(nearest_colours(image, STYLE), scene)}


def _is_framed(colours: np.ndarray, scene: Scene) -> bool:
    text, background = (STYLE.names.index(name) for name in (scene.text_colour, scene.background))
    gap = (OUTER_BORDER[1], INNER_BORDER[0])
    rings = ((OUTER_BORDER, text), (gap, background), (INNER_BORDER, text))
    return all(most_frequent(colours[_ring(first, end)]) == colour for (first, end), colour in rings)


def _ring(first: int, end: int) -> np.ndarray:
    """Select pixels from `first` to `end` from the edge, without the softened ones at both ends; bool SIZE SIZE."""
    distance_1d = np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1])
    distance: np.ndarray = np.minimum(distance_1d[:, None], distance_1d)
    return (distance >= first + 1) & (distance < end - 1)
