"""Check an edited image against the ground truth of its edit: the requested change, and the unchanged background.

OCR says whether a new text can be read; everything here counts pixels. An image of another size is scaled to that of
the scenes.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from glmkit.posters.check import GRAMMAR, check_attributes, nearest_colours, scale
from glmkit.posters.edits import Edit
from glmkit.posters.render import batch_scenes, shape_coverage

MARGIN = 1 / 64  # of the shorter side: edges next to the edit may soften, no more than half a latent's width
MIN_CLEARED = 0.9  # of a removed shape's pixels must have the background's colour; the rest may be noise at its edges
MAX_DB = 60.0  # an invisible difference; keeps the mean finite for an image that is equal


def edit_succeeded(image: Image.Image, edit: Edit) -> bool:
    """Tell whether the image shows what the instruction asks for; ValueError for edits that write a text.

    That is the new background, or the added shape in its colour at its position, or the background where the removed
    shape was, and no other shape.
    """
    image = scale(image, edit.target.width, edit.target.height)
    passed = check_attributes(image, edit.target)
    match edit.kind:
        case "background":
            return passed["background"]
        case "add":
            return passed["shape"] and passed["shape_position"]
        case "remove":
            return passed["shape"] and _cleared(image, edit)
    raise ValueError(f"{edit.kind}: only OCR can tell whether a text was written")


def _cleared(image: Image.Image, edit: Edit) -> bool:
    scene = edit.condition
    covered = shape_coverage(batch_scenes([scene]), scene.height, scene.width)[0, 0].numpy() > 0.5
    colours = nearest_colours(image)[covered]
    return bool((colours == GRAMMAR.names.index(edit.target.background)).mean() >= MIN_CLEARED)


def unchanged_region(condition: Image.Image, target: Image.Image, margin: float = MARGIN) -> np.ndarray:
    """Return where nothing may change, bool H W: condition and target are equal in all pixels within the margin."""
    changed = (np.asarray(condition) != np.asarray(target)).any(axis=2)
    reach = max(1, round(margin * min(changed.shape)))
    for axis in (0, 1):
        padded = np.pad(changed, [(reach * (axis == n),) * 2 for n in (0, 1)])
        changed = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis).any(axis=-1)
    unchanged: np.ndarray = ~changed
    return unchanged


def background_psnr(image: Image.Image, condition: Image.Image, target: Image.Image, margin: float = MARGIN) -> float:
    """Return the peak signal-to-noise ratio in dB to the condition where nothing may change, at most MAX_DB."""
    edited, before = (np.asarray(i, dtype=np.float64) for i in (scale(image, *condition.size), condition))
    error = np.square(edited - before)[unchanged_region(condition, target, margin)].mean() / 255**2
    return float(min(MAX_DB, -10 * np.log10(max(error, 1e-12))))
