"""Edits of posters: a source scene, what to do with it, and the target scene that this asks for.

Source and target differ in exactly what the instruction names, so both are ground truth to the pixel: letters keep
their place and size, a new text stands where the old one stood, shapes come and go alone.

Quotes: the model's glyph encoder reads the quoted parts of a prompt and nothing else. An instruction quotes exactly the
text that the edit writes (`Edit.written`): the new text of a replaced line, in all other edits none. What stays,
letters included, the model takes from its source image. An old text is named by its place, or by its letters without
quotes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from glmkit.posters import fonts
from glmkit.posters.grammar import (
    COLOURS,
    MAX_LINE_WIDTH,
    MIN_SHAPE_CONTRAST,
    SHAPES,
    Scene,
    Shape,
    draw_scene,
    readable_on,
    recolour,
    shape_words,
)
from glmkit.posters.words import Split, draw_text

Kind = Literal["background", "word", "add", "remove"]
KINDS: tuple[Kind, ...] = ("background", "word", "add", "remove")
TRIES = 40  # for a new text that fits, or a shape that has room
QUOTES = set("'\"‘’“”「」")


@dataclass(frozen=True)
class Edit:
    """One edit. Source and target have the same size, and the same letters unless a text is replaced."""

    kind: Kind
    source: Scene
    target: Scene
    instruction: str

    @property
    def written(self) -> tuple[str, ...]:
        """The texts that only the target shows; they are what the instruction quotes."""
        return tuple(text for text in self.target.texts if text not in self.source.texts)

    @property
    def erased(self) -> tuple[str, ...]:
        """The texts that only the source shows."""
        return tuple(text for text in self.source.texts if text not in self.target.texts)


def draw_edit(rng: random.Random, kind: Kind, *, height: int = 256, width: int = 256, split: Split = "train") -> Edit:
    """Draw a poster and an edit of it. The same `rng` state and arguments give the same edit."""
    while True:
        if edit := edited(draw_scene(rng, height=height, width=width, split=split), kind, rng, split):
            return edit


def edited(scene: Scene, kind: Kind, rng: random.Random, split: Split) -> Edit | None:
    """An edit of this kind whose letters start as those of `scene`; None when the scene allows none.

    A scene without a shape gets other colours and a shape first where one is added or removed. New words are those of
    `split`.
    """
    return _DRAWN[kind](scene, rng, split)


def _background(scene: Scene, rng: random.Random, split: Split) -> Edit | None:
    """Another background on which the text and the shape stand out as much as the grammar demands."""
    colours = [
        name
        for name in COLOURS
        if name != scene.background
        and scene.text_colour in readable_on(name)
        and (scene.shape.kind == "none" or scene.shape.colour in readable_on(name, MIN_SHAPE_CONTRAST))
    ]
    if not colours:
        return None
    colour = rng.choice(colours)
    instruction = rng.choice(
        (
            f"Make the background {colour}.",
            f"Change the background to {colour}.",
            f"Change the background colour to {colour}.",
            f"Turn the background {colour}.",
            f"Use {colour} for the background.",
            f"The same on a plain {colour} background.",
        )
    )
    return Edit("background", scene, replace(scene, background=colour), instruction)


def _word(scene: Scene, rng: random.Random, split: Split) -> Edit | None:
    """Another text in one line: same size, same baseline, no word in common with what the poster showed."""
    number = rng.randrange(len(scene.lines))
    old, shown = scene.lines[number], words_of(*scene.texts)
    if len(shown) < sum(len(words_of(text)) for text in scene.texts):
        return None  # a word in two lines: an old text could not be named without doubt
    for _ in range(TRIES):
        text = draw_text(rng, split)
        fits = fonts.unit_width(scene.font, text) * old.size <= MAX_LINE_WIDTH * scene.width
        if fits and not words_of(text) & shown:
            lines = (*scene.lines[:number], replace(old, text=text), *scene.lines[number + 1 :])
            instruction = _replacement(_named(scene, number, rng), text, rng)
            return Edit("word", scene, replace(scene, lines=lines), instruction)
    return None


def words_of(*texts: str) -> set[str]:
    """The words of the texts as readers compare them: without case, and without signs around them."""
    return {word.strip(".,!?").casefold() for text in texts for word in text.split()}


def _named(scene: Scene, number: int, rng: random.Random) -> str:
    old = scene.lines[number].text
    names = [("the headline", "the second line")[number]]
    if len(scene.lines) == 1:
        names += ["the text", "the title"]
    if not QUOTES & set(old):
        names.append(f"the text {old}")
    return rng.choice(names)


def _replacement(line: str, text: str, rng: random.Random) -> str:
    return rng.choice(
        (
            f'Change {line} to "{text}".',
            f'Replace {line} with "{text}".',
            f'Write "{text}" instead of {line}.',
            f'Let {line} become "{text}".',
            f'Put "{text}" in place of {line}.',
        )
    )


def _add(scene: Scene, rng: random.Random, split: Split) -> Edit | None:
    shaped = _with_shape(scene, rng)
    if shaped is None:
        return None
    verb = rng.choice(("Add", "Draw", "Put", "Place", "Insert"))
    instruction = f"{verb} {shape_words(shaped.shape)}."
    return Edit("add", replace(shaped, shape=Shape()), shaped, instruction)


def _remove(scene: Scene, rng: random.Random, split: Split) -> Edit | None:
    shaped = _with_shape(scene, rng)
    if shaped is None:
        return None
    kind, colour = shaped.shape.kind, shaped.shape.colour
    what = rng.choice(("the shape", f"the {kind}", f"the {colour} {kind}", f"the {colour} shape"))
    instruction = rng.choice((f"Remove {what}.", f"Delete {what}.", f"Erase {what}.", f"Take {what} away."))
    return Edit("remove", shaped, replace(shaped, shape=Shape()), instruction)


def _with_shape(scene: Scene, rng: random.Random) -> Scene | None:
    """The scene, with new colours and a shape where it had none; None when its letters leave no room, or when they
    spell a shape, which an instruction could then not name without doubt."""
    if words_of(*scene.texts) & set(SHAPES):
        return None
    for _ in range(TRIES):
        if scene.shape.kind != "none":
            return scene
        scene = recolour(scene, rng)
    return None


_DRAWN: dict[Kind, Callable[[Scene, random.Random, Split], Edit | None]] = {
    "background": _background,
    "word": _word,
    "add": _add,
    "remove": _remove,
}
