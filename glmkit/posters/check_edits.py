"""Checks of an edited image against the ground truth of its edit: was it done, and was the rest kept.

Whether a new text can be read is for OCR to say; everything here counts pixels. An image of another size is scaled to
that of the scenes.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from glmkit.posters.check import NAMES, checks, named_colours, scaled
from glmkit.posters.edits import Edit
from glmkit.posters.render import batch_params, render, shape_coverage

MARGIN = 1 / 64  # of the shorter side: edges next to the edit may soften, no more than half a latent's width
CLEARED = 0.9  # of a removed shape's pixels must have the background's colour; the rest may be noise at its edges
MOST_DB = 60.0  # a difference below any eye; keeps the mean finite for an image that is equal


def edit_succeeded(image: Image.Image, edit: Edit) -> bool:
    """Whether the image shows what the instruction asks for: the new background, the added shape in its colour at
    its place, or the background where the shape was, and no other shape. Not for edits that write a text."""
    image = _scaled(image, edit)
    seen = checks(image, edit.target)
    match edit.kind:
        case "background":
            return seen["background"]
        case "add":
            return seen["shape"] and seen["shape_position"]
        case "remove":
            return seen["shape"] and _cleared(image, edit)
    raise ValueError(f"{edit.kind}: whether a text was written is for OCR to say")


def _cleared(image: Image.Image, edit: Edit) -> bool:
    covered = shape_coverage(batch_params([edit.source]), edit.source.height, edit.source.width)[0, 0].numpy() > 0.5
    names = named_colours(image)[covered]
    return bool((names == NAMES.index(edit.target.background)).mean() >= CLEARED)


def kept_region(edit: Edit) -> np.ndarray:
    """Where nothing should change, bool H W: source and target are equal there, and so is everything within MARGIN."""
    source, target = (np.asarray(render(scene)) for scene in (edit.source, edit.target))
    changed = Image.fromarray(np.uint8(255) * (source != target).any(axis=2))
    reach = max(1, round(MARGIN * min(changed.size)))
    return np.asarray(changed.filter(ImageFilter.MaxFilter(2 * reach + 1))) == 0


def background_psnr(image: Image.Image, edit: Edit) -> float:
    """Peak signal-to-noise ratio in dB between image and source where nothing should change, at most MOST_DB."""
    drawn, true = (np.asarray(part, dtype=np.float64) for part in (_scaled(image, edit), render(edit.source)))
    error = np.square(drawn - true)[kept_region(edit)].mean() / 255**2
    return float(min(MOST_DB, -10 * np.log10(max(error, 1e-12))))


def _scaled(image: Image.Image, edit: Edit) -> Image.Image:
    return scaled(image, edit.target.width, edit.target.height)
