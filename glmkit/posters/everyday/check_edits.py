"""Check an edited image against the ground truth of its edit: what the instruction names, and what was taken away.

Boxes say where each text of the target was read: left, top, right, bottom in pixels, None for a text that was not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from glmkit.posters import check_edits as plain
from glmkit.posters.everyday.check import BELOW, Named, NamedFrame, NamedShape, check_attributes, check_places
from glmkit.posters.everyday.colours import lab
from glmkit.posters.everyday.edits import EverydayEdit
from glmkit.posters.everyday.render import render
from glmkit.posters.everyday.scene import Box

FREE_MARGIN = 1 / 16  # of the shorter side, around what may be larger, or stand a bit elsewhere, than in the true image
FREE = ("text", "add-text", "text-size", "add-shape", "move-shape")


def margin(edit: EverydayEdit) -> float:
    """Return how far around what an edit changes pixels may change with it, as a share of the shorter side."""
    return FREE_MARGIN if edit.kind in FREE else plain.MARGIN


def edit_succeeded(pixels: np.ndarray, edit: EverydayEdit, boxes: Sequence[Box | None]) -> bool:
    """Tell whether an image, uint8 H W 3 of the scenes' size, shows what the instruction names, texts apart."""
    named, unmoved = _named(edit), [block.box for block in edit.target.blocks]
    # OCR may take a shape beside a text for one of its letters; a text that stays stands where it stood.
    checked = [right for _, right in check_attributes(pixels, named, boxes if edit.kind == "add-text" else unmoved)]
    if edit.kind == "add-text" and edit.number is not None:
        pair = [boxes[edit.number], boxes[-1]]
        checked += check_places(Named(places=("", BELOW)), pair, (edit.target.width, edit.target.height))
    else:
        checked += check_places(named, boxes, (edit.target.width, edit.target.height))
    if edit.kind == "text-size":
        checked.append(_is_resized(edit, boxes[edit.number or 0]))
    return all(checked) and _is_cleared(pixels, edit)


def _named(edit: EverydayEdit) -> Named:
    """Return what must be seen in the edited image because the instruction names it."""
    target, shapes, before = edit.target, edit.new_shapes, ("",) * len(edit.condition.texts)
    match edit.kind:
        case "background":
            return Named(background=target.background)
        case "text-colour":
            inks = (target.accent_colour if block.accent else target.text_colour for block in target.blocks)
            return Named(text_colours=tuple(ink * (edit.number in (None, n)) for n, ink in enumerate(inks)))
        case "add-text":
            colour = target.accent_colour * target.blocks[-1].accent
            return Named(text_colours=(*before, colour), places=(*before, _place(target.blocks[-1].place)))
        case "add-shape" | "move-shape" | "shape-colour":
            place = "" if edit.kind == "shape-colour" else _place(shapes[0].place)
            return Named(shapes=(NamedShape(shapes[0].kind, shapes[0].colour, place, len(shapes)).to_dict(),))
        case "frame" if target.frame.thickness:
            return Named(frame=NamedFrame(target.frame.colour).to_dict())
    return Named()


def _place(place: tuple[str, str]) -> str:
    """Return the words of a place that people say: "at the top" leaves the column open."""
    row, column = place
    if column == "centre" and row != "middle":
        return row
    return column if row == "middle" and column != "centre" else f"{row} {column}"


def _is_resized(edit: EverydayEdit, box: Box | None) -> bool:
    """Tell whether a text is nearer to its new size than to its old one, by width and height together."""
    if box is None:
        return False
    number = edit.number or 0
    seen, old, new = (
        math.log(right - left + bottom - top)
        for left, top, right, bottom in (box, edit.condition.blocks[number].box, edit.target.blocks[number].box)
    )
    return abs(seen - new) < abs(seen - old)


def _is_cleared(pixels: np.ndarray, edit: EverydayEdit) -> bool:
    """Tell whether what was taken away is gone: its pixels are nearer to what was behind it."""
    before, gone = edit.condition, edit.target
    if edit.kind == "move-shape":
        gone = replace(before, shapes=tuple(shape for shape in before.shapes if shape not in edit.old_shapes))
    elif not (edit.kind.startswith("remove") or (edit.kind == "frame" and not gone.frame.thickness)):
        return True
    old, new = (lab(np.asarray(render(scene))) for scene in (before, gone))
    change, colours = np.linalg.norm(new - old, axis=-1), lab(pixels)
    taken = change > change.max() / 2
    nearer = np.linalg.norm(colours - new, axis=-1) < np.linalg.norm(colours - old, axis=-1)
    return bool(nearer[taken].mean() >= plain.MIN_CLEARED)
