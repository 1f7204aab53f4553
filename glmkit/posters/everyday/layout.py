"""Fit texts and shapes into a scene that stays as it is: where they may stand, and how large."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from glmkit.posters.everyday import fonts
from glmkit.posters.everyday.scene import (
    GAP,
    MARGIN,
    MOST_LINES,
    SMALLEST,
    SMALLEST_PIXELS,
    WIDEST,
    Box,
    EverydayScene,
    PlacedShape,
    TextBlock,
    broken,
    shape_box,
    touch,
)

SMALLEST_SHARE = 0.6  # of an old text's size, for a new one that is longer


def set_again(scene: EverydayScene, number: int, text: str, language: str, rng: random.Random) -> TextBlock | None:
    """Set a text in place of block `number`: as large, or as large as it can be on one line or more; None: too long."""
    old, others = scene.blocks[number], scene.blocks[:number] + scene.blocks[number + 1 :]
    in_language = fonts.ENGLISH if language == "en" else fonts.CHINESE
    face = old.font if old.font in in_language else rng.choice(in_language)
    least = max(smallest_size(language, scene), SMALLEST_SHARE * old.size)
    best: TextBlock | None = None
    for count in range(1, MOST_LINES + 1):
        lines = broken(text, count, face, language)
        if lines is None:
            break
        size = int(min(old.size, line_room(scene, old) / max(fonts.unit_width(face, line) for line in lines)))
        block = stand_like(old, replace(old, text=text, lines=lines, font=face, size=size))
        if size >= least and is_free(scene, block.box, others) and (best is None or size > 1.15 * best.size):
            best = block
    return best


def stand_like(old: TextBlock, block: TextBlock) -> TextBlock:
    """Move a block up or down to where the old one stood: to its upper edge, its middle, or its lower edge."""
    (_, top, _, bottom), (_, new_top, _, new_bottom) = old.box, block.box
    down = {"top": top - new_top, "bottom": bottom - new_bottom}
    middle = (top + bottom - new_top - new_bottom) / 2
    return replace(block, baseline=block.baseline + round(down.get(old.place[0], middle)))


def smallest_size(language: str, scene: EverydayScene) -> float:
    """Return the smallest font size that can be read, in pixels."""
    return max(SMALLEST[language] * min(scene.height, scene.width), SMALLEST_PIXELS[language])


def line_room(scene: EverydayScene, block: TextBlock) -> float:
    """Return how wide a line may be at the anchor of a block, in pixels."""
    left, right = block.x - side_margin(scene), scene.width - side_margin(scene) - block.x
    return {"l": right, "m": 2 * min(left, right), "r": left}[block.anchor]


def side_margin(scene: EverydayScene) -> float:
    """Return how near to the left and right edge a text may stand, in pixels."""
    return max((1 - WIDEST) / 2 * scene.width, scene.frame.gap + scene.frame.thickness + 2)


def is_free(scene: EverydayScene, box: Box, blocks: Iterable[TextBlock]) -> bool:
    """Tell whether the box of a text is clear of the edges, of the scene's shapes, and of the rows of other blocks.

    Texts side by side would read as one.
    """
    shorter, (left, top, right, bottom) = min(scene.height, scene.width), box
    edge, side = 0.8 * MARGIN * shorter, side_margin(scene) - 2
    if top < edge or bottom > scene.height - edge or left < side or right > scene.width - side:
        return False
    gap = GAP / 2 * shorter
    taken = [shape_box(shape, scene.width) for shape in scene.shapes]
    taken += [(0, block.box[1], scene.width, block.box[3]) for block in blocks]
    return not any(touch(box, other, gap) for other in taken)


def have_space(scene: EverydayScene, placed: Iterable[PlacedShape], others: Iterable[PlacedShape]) -> bool:
    """Tell whether new shapes touch none of the scene's texts, and none of these other shapes."""
    gap = GAP * min(scene.height, scene.width)
    taken = [block.box for block in scene.blocks] + [shape_box(shape, scene.width) for shape in others]
    return not any(touch(shape_box(shape, scene.width), other, gap) for shape in placed for other in taken)
