"""Sample edits of posters: a condition scene, an instruction, and the target scene that the instruction asks for.

Condition and target differ in exactly what the instruction names, so both are ground truth to the pixel. Letters keep
their position and size, a new text stands where the old one stood, and nothing else moves when a shape comes or goes.

Quotes: the model's glyph encoder reads the quoted parts of a prompt and nothing else. An instruction quotes exactly
`Edit.new_texts`: the new text of a replaced line, and nothing in all other edits. The model takes what stays, letters
included, from its condition image. An old text is named by its position, or by its letters without quotes.
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
    describe_shape,
    readable_on,
    recolour,
    sample_scene,
)
from glmkit.posters.words import Split, sample_text

EditKind = Literal["background", "word", "add", "remove"]
KINDS: tuple[EditKind, ...] = ("background", "word", "add", "remove")
MAX_TRIES = 40  # for a new text that fits, or a shape that has space
QUOTES = set("'\"‘’“”「」")


@dataclass(frozen=True)
class Edit:
    """One edit. Condition and target have the same size, and the same letters unless a text is replaced."""

    kind: EditKind
    condition: Scene
    target: Scene
    instruction: str

    @property
    def new_texts(self) -> tuple[str, ...]:
        """Return the texts that only the target shows, which are those that the instruction quotes."""
        return tuple(text for text in self.target.texts if text not in self.condition.texts)


def sample_edit(
    rng: random.Random, kind: EditKind, *, height: int = 256, width: int = 256, split: Split = "train"
) -> Edit:
    """Sample a poster and an edit of it. The same `rng` state and arguments give the same edit."""
    while True:
        if edit := edit_scene(sample_scene(rng, height=height, width=width, split=split), kind, rng, split):
            return edit


def edit_scene(scene: Scene, kind: EditKind, rng: random.Random, split: Split) -> Edit | None:
    """Sample an edit of this kind whose letters start as those of `scene`; None when the scene allows none.

    To add or remove a shape, a scene without one gets new colours and a shape first. New words are those of `split`.
    """
    return _SAMPLERS[kind](scene, rng, split)


def _sample_background(scene: Scene, rng: random.Random, _: Split) -> Edit | None:
    """Sample another background on which the text and the shape have the contrast that the grammar demands."""
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


def _sample_text_replacement(scene: Scene, rng: random.Random, split: Split) -> Edit | None:
    """Sample another text for one line: same size, same baseline, no word in common with the poster."""
    number = rng.randrange(len(scene.lines))
    old, old_words = scene.lines[number], words_of(*scene.texts)
    if len(old_words) < sum(len(words_of(text)) for text in scene.texts):
        return None  # a word in two lines: an old text could not be named without doubt
    for _ in range(MAX_TRIES):
        text = sample_text(rng, split)
        fits = fonts.unit_width(scene.font, text) * old.size <= MAX_LINE_WIDTH * scene.width
        if fits and not words_of(text) & old_words:
            lines = (*scene.lines[:number], replace(old, text=text), *scene.lines[number + 1 :])
            instruction = _phrase_replacement(_name_line(scene, number, rng), text, rng)
            return Edit("word", scene, replace(scene, lines=lines), instruction)
    return None


def words_of(*texts: str) -> set[str]:
    """Return the words of the texts as readers compare them: without case, and without punctuation around them."""
    return {word.strip(".,!?").casefold() for text in texts for word in text.split()}


def _name_line(scene: Scene, number: int, rng: random.Random) -> str:
    old = scene.lines[number].text
    names = [("the headline", "the second line")[number]]
    if len(scene.lines) == 1:
        names += ["the text", "the title"]
    if not QUOTES & set(old):
        names.append(f"the text {old}")
    return rng.choice(names)


def _phrase_replacement(line: str, text: str, rng: random.Random) -> str:
    return rng.choice(
        (
            f'Change {line} to "{text}".',
            f'Replace {line} with "{text}".',
            f'Write "{text}" instead of {line}.',
            f'Let {line} become "{text}".',
            f'Put "{text}" in place of {line}.',
        )
    )


def _sample_addition(scene: Scene, rng: random.Random, _: Split) -> Edit | None:
    shaped = _with_shape(scene, rng)
    if shaped is None:
        return None
    verb = rng.choice(("Add", "Draw", "Put", "Place", "Insert"))
    instruction = f"{verb} {describe_shape(shaped.shape)}."
    return Edit("add", replace(shaped, shape=Shape()), shaped, instruction)


def _sample_removal(scene: Scene, rng: random.Random, _: Split) -> Edit | None:
    shaped = _with_shape(scene, rng)
    if shaped is None:
        return None
    kind, colour = shaped.shape.kind, shaped.shape.colour
    name = rng.choice(("the shape", f"the {kind}", f"the {colour} {kind}", f"the {colour} shape"))
    instruction = rng.choice((f"Remove {name}.", f"Delete {name}.", f"Erase {name}.", f"Take {name} away."))
    return Edit("remove", shaped, replace(shaped, shape=Shape()), instruction)


def _with_shape(scene: Scene, rng: random.Random) -> Scene | None:
    """Return the scene, with new colours and a shape where it had none; None when it allows no shape.

    Its letters may leave no space, or spell a shape, which an instruction could then not name without doubt.
    """
    if words_of(*scene.texts) & set(SHAPES):
        return None
    for _ in range(MAX_TRIES):
        if scene.shape.kind != "none":
            return scene
        scene = recolour(scene, rng)
    return None


_SAMPLERS: dict[EditKind, Callable[[Scene, random.Random, Split], Edit | None]] = {
    "background": _sample_background,
    "word": _sample_text_replacement,
    "add": _sample_addition,
    "remove": _sample_removal,
}
