"""Sample edits: a condition scene, an instruction, and the target scene that the instruction asks for.

Condition and target differ in exactly what the instruction names; everything else is equal to the pixel. A new text
stands where the old one stood, in its typeface, and as large where it fits; nothing moves when something comes or goes.

Quotes: the glyph encoder reads every quoted text of an instruction. An instruction quotes each new text, perhaps the
old one, and perhaps a text that stays, to say which one it is about. No edit has more than one apostrophe in its texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from glmkit.posters.edits import words_of
from glmkit.posters.everyday import colours, instructions, instructions_zh, texts
from glmkit.posters.everyday.layout import have_space, is_free, line_room, set_again, smallest_size, stand_like
from glmkit.posters.everyday.scene import (
    GAP,
    LARGEST,
    MOST_SHAPES,
    PLACES,
    RADII,
    WIDEST,
    Border,
    EverydayScene,
    PlacedShape,
    TextBlock,
    fit,
    sample_border,
    sample_scene,
    stand,
    stand_in_row,
)
from glmkit.posters.grammar import SHAPES
from glmkit.posters.words import Split, words

EditKind = Literal[
    "background", "text", "add-text", "remove-text", "text-colour", "text-size", "add-shape", "remove-shape",
    "shape-colour", "move-shape", "frame",
]  # fmt: skip
SHARES: dict[EditKind, int] = {
    "background": 8, "text": 14, "add-text": 6, "remove-text": 6, "text-colour": 6, "text-size": 4, "add-shape": 6,
    "remove-shape": 4, "shape-colour": 4, "move-shape": 2, "frame": 4,
}  # fmt: skip
MAX_TRIES = 40
LARGER, SMALLER = (1.35, 1.8), (0.5, 0.72)  # factors of a text's size
MOST_TEXTS = 4


@dataclass(frozen=True)
class EverydayEdit:
    """One edit. Condition and target have the same size.

    `number` is the text that it is about, by its number in the condition, and None for all of them. A text is added
    below that one, or with None at a place of its own. `says_place` tells whether the place of what is added is said.
    """

    kind: EditKind
    condition: EverydayScene
    target: EverydayScene
    language: str
    number: int | None = None
    says_place: bool = True
    instruction: str = ""

    @property
    def new_shapes(self) -> tuple[PlacedShape, ...]:
        """Return the shapes that only the target shows."""
        return tuple(shape for shape in self.target.shapes if shape not in self.condition.shapes)

    @property
    def old_shapes(self) -> tuple[PlacedShape, ...]:
        """Return the shapes that only the condition shows."""
        return tuple(shape for shape in self.condition.shapes if shape not in self.target.shapes)


def sample_edit(
    rng: random.Random,
    kind: EditKind | None = None,
    *,
    height: int = 256,
    width: int = 256,
    split: Split = "train",
    language: str = "",
) -> EverydayEdit:
    """Sample a scene and an edit of it, of one kind or any. The same `rng` state and arguments give the same edit.

    `language` is that of the texts; the instruction has another one now and then.
    """
    kind = kind or rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    while True:
        scene = sample_scene(rng, height=height, width=width, split=split, language=language)
        says = "zh" if rng.random() < (0.78 if scene.language == "zh" else 0.14) else "en"
        edit = _SAMPLERS[kind](EverydayEdit(kind, scene, scene, says), rng, split)
        if edit and edit.target != edit.condition:
            say = instructions_zh.instruction if says == "zh" else instructions.instruction
            return replace(edit, instruction=say(edit, rng))


def _colour(edit: EverydayEdit, rng: random.Random, least: float, unlike: Iterable[str]) -> str:
    """Sample a colour that is readable on the background, has a name, and is clearly none of `unlike`; or nothing."""
    for _ in range(MAX_TRIES):
        name = colours.sample_on(edit.condition.background, rng, least)
        if _has_name(edit, name) and all(colours.are_different(name, other) for other in unlike):
            return name
    return ""


def _has_name(edit: EverydayEdit, colour: str) -> bool:
    return edit.language == "en" or bool(colours.COLOURS[colour][1])


def _sample_background(edit: EverydayEdit, rng: random.Random, _: Split) -> EverydayEdit | None:
    """Sample another background on which everything can be seen as well as a scene demands."""
    scene = edit.condition
    inks = {scene.text_colour, scene.accent_colour}
    flat = {shape.colour for shape in scene.shapes} | ({scene.frame.colour} if scene.frame.thickness else set())
    for name in (colours.sample(rng) for _ in range(MAX_TRIES)):
        seen = inks <= {*colours.readable_on(name)} and flat <= {*colours.readable_on(name, colours.MIN_SHAPE_CONTRAST)}
        if seen and _has_name(edit, name) and colours.are_different(name, scene.background):
            return replace(edit, target=replace(scene, background=name))
    return None


def _sample_text(edit: EverydayEdit, rng: random.Random, split: Split) -> EverydayEdit | None:
    """Sample another text in place of one: any, or one that differs from it in a word or a number."""
    scene = edit.condition
    number = rng.randrange(len(scene.blocks))
    for _ in range(MAX_TRIES):
        language = scene.language
        if rng.random() < 0.2:
            text = _varied(scene.texts[number], rng, split)
        else:
            language = language if rng.random() < 0.9 else {"en": "zh", "zh": "en"}[language]
            text = texts.sample(rng, language, split)
        block = set_again(scene, number, text, language, rng)
        if block and _is_new(text, scene):
            blocks = (*scene.blocks[:number], block, *scene.blocks[number + 1 :])
            return replace(edit, target=replace(scene, blocks=blocks), number=number)
    return None


def _is_new(text: str, scene: EverydayScene) -> bool:
    """Tell whether a text is none of the scene's, case apart, and its apostrophe the only one."""
    return text.casefold() not in map(str.casefold, scene.texts) and ("'" + text + "".join(scene.texts)).count("'") <= 2


def _varied(text: str, rng: random.Random, split: Split) -> str:
    """Return the text with another word, or another number, in place of one of its own."""
    pieces = text.split(" ")
    number = rng.randrange(len(pieces))
    old = pieces[number]
    if old.isdecimal():
        pieces[number] = "".join(str(rng.randint(1, 9)) for _ in old)
    elif old.isascii() and old.isalpha() and len(pieces) > 1:
        new = rng.choice(words(split))
        pieces[number] = new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new
    return " ".join(pieces)


def _sample_text_addition(edit: EverydayEdit, rng: random.Random, split: Split) -> EverydayEdit | None:
    """Sample a text more, below another one or at a place of its own, in the colour of the others or in its own."""
    scene, shorter = edit.condition, min(edit.condition.height, edit.condition.width)
    if len(scene.blocks) >= MOST_TEXTS:
        return None
    last = max(range(len(scene.blocks)), key=lambda number: scene.blocks[number].box[3])
    above, face = scene.blocks[last], scene.blocks[0].font
    largest = max(smallest_size(scene.language, scene), min(block.size for block in scene.blocks))
    for _ in range(MAX_TRIES):
        text = texts.sample(rng, scene.language, split, 26)
        below = rng.random() < 0.4
        place = above.place if below else rng.choice(PLACES)
        widest = line_room(scene, above) if below else scene.width * (WIDEST if place[1] == "centre" else 0.7)
        fitted = fit(rng, text, face, scene.language, largest, widest, 0.27 * scene.height, shorter)
        placed = stand(rng, [text], [fitted], face, place, scene.height, scene.width)
        if not placed or not _is_new(text, scene):
            continue
        (block,) = placed
        if below:
            down = above.box[3] + GAP * shorter * rng.uniform(1.0, 2.2) - block.box[1]
            block = replace(block, x=above.x, anchor=above.anchor, baseline=block.baseline + round(down))
        if is_free(scene, block.box, scene.blocks):
            target = _with_block(edit, block, rng)
            return replace(edit, target=target, number=last if below else None, says_place=below or rng.random() < 0.88)
    return None


def _with_block(edit: EverydayEdit, block: TextBlock, rng: random.Random) -> EverydayScene:
    """Add a block, now and then in another colour than the others have."""
    scene = edit.condition
    if any(other.accent for other in scene.blocks) or rng.random() < 0.75:
        return replace(scene, blocks=(*scene.blocks, block))
    colour = _colour(edit, rng, colours.MIN_TEXT_CONTRAST, [scene.text_colour])
    accented = replace(block, accent=bool(colour))
    return replace(scene, blocks=(*scene.blocks, accented), accent_colour=colour or scene.accent_colour)


def _sample_text_removal(edit: EverydayEdit, rng: random.Random, _: Split) -> EverydayEdit | None:
    """Sample which text goes; seldom all of them, or the only one."""
    scene = edit.condition
    if len(scene.blocks) == 1 or rng.random() < 0.06:
        return replace(edit, target=replace(scene, blocks=())) if rng.random() < 0.12 else None
    number = rng.randrange(len(scene.blocks))
    blocks = scene.blocks[:number] + scene.blocks[number + 1 :]
    return replace(edit, target=replace(scene, blocks=blocks), number=number)


def _sample_text_colour(edit: EverydayEdit, rng: random.Random, _: Split) -> EverydayEdit | None:
    """Sample another colour for all texts, or for one that can have a colour of its own."""
    scene = edit.condition
    accented = [number for number, block in enumerate(scene.blocks) if block.accent]
    number = None if len(scene.blocks) == 1 or rng.random() < 0.3 else rng.randrange(len(scene.blocks))
    name = _colour(edit, rng, colours.MIN_TEXT_CONTRAST, [scene.text_colour, scene.accent_colour])
    if not name:
        return None
    if number is None:
        blocks = tuple(replace(block, accent=False) for block in scene.blocks)
        return replace(edit, target=replace(scene, text_colour=name, accent_colour=name, blocks=blocks))
    if accented in ([], [number]):
        blocks = tuple(replace(block, accent=n == number) for n, block in enumerate(scene.blocks))
        return replace(edit, target=replace(scene, accent_colour=name, blocks=blocks), number=number)
    if len(scene.blocks) == 2:
        return replace(edit, target=replace(scene, text_colour=name), number=number)
    return None  # a third colour


def _sample_text_size(edit: EverydayEdit, rng: random.Random, __: Split) -> EverydayEdit | None:
    """Sample a larger or smaller size for one text; its lines stay, and so does its edge or its middle."""
    scene = edit.condition
    number = rng.randrange(len(scene.blocks))
    old, others = scene.blocks[number], scene.blocks[:number] + scene.blocks[number + 1 :]
    largest = LARGEST[scene.language] * min(scene.height, scene.width)
    limits = rng.choice((LARGER, LARGER, LARGER, SMALLER))  # most texts are too large to grow
    for _ in range(3):
        block = stand_like(old, replace(old, size=round(old.size * rng.uniform(*limits))))
        width = block.box[2] - block.box[0]
        fits = smallest_size(scene.language, scene) <= block.size <= largest and width <= line_room(scene, old)
        if fits and is_free(scene, block.box, others):
            blocks = (*scene.blocks[:number], block, *scene.blocks[number + 1 :])
            alone = None if not others else number
            return replace(edit, target=replace(scene, blocks=blocks), number=alone)
    return None


def _sample_shape_addition(edit: EverydayEdit, rng: random.Random, _: Split) -> EverydayEdit | None:
    """Sample a new shape, or two or three equal ones, where there is space."""
    scene = edit.condition
    shorter = min(scene.height, scene.width)
    if _spells_shape(scene):
        return None
    for kind in (rng.choice(SHAPES) for _ in range(MAX_TRIES)):
        count = 1 if kind == "stripe" else rng.choices((1, 2, 3), (80, 10, 10))[0]
        radius = rng.uniform(RADII[0], RADII[1] if count == 1 else 0.1) * shorter * (1 / 3 if kind == "stripe" else 1)
        colour = _colour(edit, rng, colours.MIN_SHAPE_CONTRAST, [])
        placed = stand_in_row(kind, colour, count, rng.choice(PLACES), radius, scene.height, scene.width)
        if colour and len(scene.shapes) + count <= MOST_SHAPES and have_space(scene, placed, scene.shapes):
            target = replace(scene, shapes=(*scene.shapes, *placed))
            return replace(edit, target=target, says_place=rng.random() < 0.9)
    return None


def _spells_shape(scene: EverydayScene) -> bool:
    """Tell whether a text names a shape, which an instruction could then not name without doubt."""
    return bool(words_of(*scene.texts) & set(SHAPES))


def _sample_shape_change(
    edit: EverydayEdit, rng: random.Random, _: Split, change: Callable[..., list[PlacedShape]]
) -> EverydayEdit | None:
    """Sample what becomes of a shape, or of equal ones at one place: `change` gives what stands there afterwards."""
    scene = edit.condition
    if not scene.shapes or _spells_shape(scene):
        return None
    group = rng.choice(list(scene.shape_groups.values()))
    others = tuple(shape for shape in scene.shapes if shape not in group)
    after = change(edit, rng, group, others)
    return None if after == group else replace(edit, target=replace(scene, shapes=(*others, *after)))


def _none(*_: object) -> list[PlacedShape]:
    return []


def _recoloured(
    edit: EverydayEdit, rng: random.Random, group: list[PlacedShape], _: tuple[PlacedShape, ...]
) -> list[PlacedShape]:
    name = _colour(edit, rng, colours.MIN_SHAPE_CONTRAST, [group[0].colour])
    return [replace(shape, colour=name) for shape in group] if name else group


def _moved(
    edit: EverydayEdit, rng: random.Random, group: list[PlacedShape], others: tuple[PlacedShape, ...]
) -> list[PlacedShape]:
    scene, one = edit.condition, group[0]
    for place in rng.sample(PLACES, len(PLACES)):
        moved = stand_in_row(one.kind, one.colour, len(group), place, one.radius, scene.height, scene.width)
        if moved[0].place != one.place and have_space(scene, moved, (*others, *group)):
            return moved
    return group


def _sample_frame(edit: EverydayEdit, rng: random.Random, _: Split) -> EverydayEdit | None:
    """Sample a frame that comes, goes, or gets another colour."""
    scene = edit.condition
    shorter = min(scene.height, scene.width)
    border = scene.frame if scene.frame.thickness else sample_border(rng, scene.background, scene.text_colour, shorter)
    inner = border.gap + border.thickness + 3
    if not _has_name(edit, border.colour) or any(
        min(box[0], box[1], scene.width - box[2], scene.height - box[3]) < inner
        for box in (block.box for block in scene.blocks)
    ):
        return None
    framed, bare = replace(scene, frame=border), replace(scene, frame=Border())
    way = rng.choices(("add", "remove", "recolour"), (4, 4, 2))[0]
    if way == "recolour":
        name = _colour(edit, rng, colours.MIN_SHAPE_CONTRAST, [border.colour])
        target = replace(scene, frame=replace(border, colour=name)) if name else framed
        return replace(edit, condition=framed, target=target)
    return (
        replace(edit, condition=bare, target=framed) if way == "add" else replace(edit, condition=framed, target=bare)
    )


_SAMPLERS: dict[EditKind, Callable[[EverydayEdit, random.Random, Split], EverydayEdit | None]] = {
    "background": _sample_background,
    "text": _sample_text,
    "add-text": _sample_text_addition,
    "remove-text": _sample_text_removal,
    "text-colour": _sample_text_colour,
    "text-size": _sample_text_size,
    "add-shape": _sample_shape_addition,
    "remove-shape": partial(_sample_shape_change, change=_none),
    "shape-colour": partial(_sample_shape_change, change=_recoloured),
    "move-shape": partial(_sample_shape_change, change=_moved),
    "frame": _sample_frame,
}
