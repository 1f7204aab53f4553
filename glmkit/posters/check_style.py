"""Checks of an image against the framed poster of `style_set` that it should show; they read pixels alone.

What the frame holds is checked as any poster is, by the style's five colours; the frame is right when most pixels of
both borders have the colour of the letters, and most of the gap between them that of the background. An image of
another size is scaled to that of the style.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from glmkit.posters.check import Palette, checks, named_colours, scaled
from glmkit.posters.grammar import Scene
from glmkit.posters.style_set import BAND, COLOURS, FRAME, LINE, SIZE

STYLE = Palette(COLOURS)


def style_checks(image: Image.Image, scene: Scene) -> dict[str, bool]:
    """Which properties of the framed poster the image has: those of `check.checks`, and `frame`."""
    image = scaled(image, SIZE, SIZE)
    inner = image.crop((FRAME, FRAME, SIZE - FRAME, SIZE - FRAME))
    return {**checks(inner, scene, STYLE), "frame": _is_framed(named_colours(image, STYLE), scene)}


def _is_framed(names: np.ndarray, scene: Scene) -> bool:
    ink, ground = (STYLE.names.index(name) for name in (scene.text_colour, scene.background))
    rings = ((BAND, ink), ((BAND[1], LINE[0]), ground), (LINE, ink))
    return all(_most(names[_ring(first, end)]) == colour for (first, end), colour in rings)


def _ring(first: int, end: int) -> np.ndarray:
    """Of the pixels from `first` to `end` from the edge, without the softened ones at its sides; bool SIZE SIZE."""
    distance = np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1])
    distance = np.minimum(distance[:, None], distance)
    return (distance >= first + 1) & (distance < end - 1)


def _most(names: np.ndarray) -> int:
    return int(np.bincount(names).argmax())
