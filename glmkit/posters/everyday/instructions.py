"""Say in English what an edit changes, as people type it. `instructions_zh` is the same for Chinese."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from glmkit.posters.everyday.captions import COUNTS, QUOTES, colour_name, place, with_article
from glmkit.posters.everyday.scene import EverydayScene, PlacedShape

if TYPE_CHECKING:
    from glmkit.posters.everyday.edits import EverydayEdit

Quote = Callable[[str], str]

ORDINALS = ("first", "second", "third", "fourth")
POLITE = ("please ", "please ", "can you ", "could you ", "I want you to ", "now ", "just ")
REST = (
    " and keep everything else the same", ", keep the rest as it is", ", nothing else", " and leave the rest alone",
    ". Keep everything else", ", the rest stays the same", " but keep the rest", ", everything else unchanged",
)  # fmt: skip
ODD_STARTS = ("centered", "left", "right", "top", "bottom", "upper", "lower", "as")  # of a sentence
VERBS = {
    "make", "change", "turn", "set", "use", "put", "give", "paint", "colour", "color", "recolor", "replace", "swap",
    "write", "let", "update", "remove", "delete", "erase", "take", "get", "add", "insert", "place", "draw", "include",
    "move", "shift", "increase", "decrease", "enlarge", "reduce", "scale", "shrink", "drop", "edit", "switch", "bring",
}  # fmt: skip


def instruction(edit: EverydayEdit, rng: random.Random) -> str:
    """Sample one of many ways to ask for the edit."""
    phrase = _PHRASES[edit.kind](edit, rng, rng.choice(QUOTES).format)
    asks = phrase.split()[0] in VERBS
    if asks and rng.random() < 0.22:
        phrase = rng.choice(POLITE) + phrase
    if rng.random() < 0.12:
        phrase += rng.choice(REST)
    elif asks and rng.random() < 0.05:
        phrase += " please"
    if rng.random() < 0.65:
        phrase = phrase[0].upper() + phrase[1:]
    end = "?" if phrase.lower().startswith(("can you", "could you")) and rng.random() < 0.7 else "."
    return phrase + (end if rng.random() < 0.5 and phrase[-1] not in ".!?" else "")


def _colours(rng: random.Random) -> str:
    return rng.choice(("colour", "color", "color"))


def _background(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    new, old = colour_name(edit.target.background, rng), colour_name(edit.condition.background, rng)
    word = _colours(rng)
    return rng.choice((
        f"make the background {new}", f"make the background {new}", f"change the background to {new}",
        f"change the background {word} to {new}", f"turn the background {new}", f"use {with_article(new)} background",
        f"set the background to {new}", f"change the background from {old} to {new}", f"{new} background",
        f"put it on {with_article(new)} background", f"I want {with_article(new)} background",
        f"the background should be {new}", f"replace the {old} background with {new}", f"paint the background {new}",
        f"background in {new} instead of {old}", f"give it {with_article(new)} background", f"the same but on {new}",
        f"the same with {with_article(new)} background", f"swap the background for {new}", f"background {new}",
        f"let the background be {new}", f"recolor the background {new}", f"make it {new} instead of {old}",
    ))  # fmt: skip


def _named(scene: EverydayScene, number: int | None, rng: random.Random, quote: Quote) -> str:
    """Name a text by its content, its order, its place or its colour; None: all texts."""
    if number is None:
        names = ["the text", "the text", "the words", "the letters", "the writing", "the lettering"]
        if len(scene.blocks) > 1:
            return rng.choice(("all the text", "all text", "all the texts", "the whole text", "all the words"))
        if rng.random() < 0.6:
            return rng.choice(names)
        number = 0
    block = scene.blocks[number]
    content = quote(block.text)
    names = [content, content, content, f"the text {content}", f"the word{'s' * (' ' in block.text)} {content}"]
    if block.text.replace(" ", "").isalnum() and block.text.isascii() and rng.random() < 0.5:
        names.append(block.text)
    if len(scene.blocks) == 1:
        names += ["the text", "the title", "the headline", "the words"]
    elif scene.arrangement == "stack":
        names += _ordered(scene, number)
    else:
        where = _there(block.place, rng)
        names += [f"the text {where}", f"the text {where}", f"the words {where}"]
        if block.place[0] != "middle":
            names += [f"the {block.place[0]} text"]
    if block.accent and scene.accent_colour != scene.text_colour:
        names += [f"the {colour_name(scene.accent_colour, rng)} text"]
    return rng.choice(names)


def _there(where: tuple[str, str], rng: random.Random) -> str:
    """Say a place so that it can follow a noun: `in the top left`, not `top left`."""
    while (words := place(where, rng)).split()[0] in ODD_STARTS:
        pass
    return words


def _ordered(scene: EverydayScene, number: int) -> list[str]:
    """Name a text of a stack by its order; broken texts make lines ambiguous."""
    nouns = ("text",) if any(len(block.lines) > 1 for block in scene.blocks) else ("line", "text")
    names = [f"the {ORDINALS[number]} {noun}" for noun in nouns]
    if number == 0:
        names += ["the headline", "the title", f"the top {nouns[0]}"]
    if number == len(scene.blocks) - 1:
        names += [f"the last {nouns[0]}", f"the bottom {nouns[0]}"]
    return names


def _text(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    assert edit.number is not None
    old = _named(edit.condition, edit.number, rng, quote)
    new = quote(edit.target.blocks[edit.number].text)
    phrases = [
        f"change {old} to {new}", f"change {old} to {new}", f"replace {old} with {new}", f"replace {old} by {new}",
        f"write {new} instead of {old}", f"make {old} say {new}", f"change {old} so that it says {new}",
        f"swap {old} for {new}", f"instead of {old} it should say {new}", f"let {old} read {new}",
        f"now it should say {new} instead of {old}", f"put {new} in place of {old}", f"{new} instead of {old}",
        f"update {old} to {new}", f"{old} should be {new}", f"I want {new} instead of {old}",
        f"edit {old}: it should read {new}", f"put {new} where {old} is", f"turn {old} into {new}",
    ]  # fmt: skip
    if len(edit.condition.blocks) == 1:
        phrases += [
            f"make it say {new}", f"it should say {new}", f"now it says {new}", f"change the text to {new}",
            f"the text should be {new}", f"I want it to say {new}", f"change what it says to {new}",
        ]  # fmt: skip
    return rng.choice(phrases)


def _text_addition(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    scene, block = edit.condition, edit.target.blocks[-1]
    words = rng.choice(("{}", "{}", "the text {}", "the words {}", "a text that says {}")).format(quote(block.text))
    if block.accent:
        words += f" in {colour_name(edit.target.accent_colour, rng)}"
    where = ""
    if edit.number is not None:
        what = _named(scene, edit.number, rng, quote)
        where = rng.choice((f"below {what}", f"under {what}", f"underneath {what}", f"beneath {what}"))
        if len(scene.blocks) == 1 or scene.arrangement == "stack":
            where = rng.choice((where, "below", "underneath", "below it", "as another line below"))
    elif edit.says_place:
        where = place(block.place, rng)
    verb = rng.choice(
        ("add", "add", "add", "include", "insert", "also write", *("write", "put", "place") * bool(where))
    )
    if where and where.split()[0] not in ODD_STARTS and rng.random() < 0.2:
        return f"{where} {rng.choice(('add', 'write', 'put'))} {words}"
    return f"{verb} {words} {where}".strip()


def _text_removal(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    old = _named(edit.condition, edit.number, rng, quote)
    return rng.choice((
        f"remove {old}", f"remove {old}", f"delete {old}", f"erase {old}", f"take {old} away", f"take out {old}",
        f"get rid of {old}", f"drop {old}", f"I want it without {old}", f"without {old}", f"{old} should go",
    ))  # fmt: skip


def _text_colour(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    old = _named(edit.condition, edit.number, rng, quote)
    new = edit.target.accent_colour
    if edit.number is not None and not edit.target.blocks[edit.number].accent:
        new = edit.target.text_colour
    new, word = colour_name(new, rng), _colours(rng)
    phrases = [
        f"make {old} {new}", f"make {old} {new}", f"change the {word} of {old} to {new}", f"turn {old} {new}",
        f"put {old} in {new}", f"{old} in {new}", f"{old} should be {new}", f"I want {old} in {new}",
        f"write {old} in {new}", f"color {old} {new}", f"set {old} in {new}", f"use {new} for {old}",
    ]  # fmt: skip
    if edit.number is None:
        phrases += [f"change the text {word} to {new}", f"{new} letters", f"use {new} letters", f"{new} text instead"]
    return rng.choice(phrases)


def _text_size(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    old, number = _named(edit.condition, edit.number, rng, quote), edit.number or 0
    if edit.target.blocks[number].size > edit.condition.blocks[number].size:
        return rng.choice((
            f"make {old} bigger", f"make {old} larger", f"make {old} bigger", f"increase the size of {old}",
            f"enlarge {old}", f"{old} should be bigger", f"{old} is too small, make it bigger",
            f"bigger font for {old}", f"use a larger font for {old}", f"scale {old} up", f"make {old} much bigger",
        ))  # fmt: skip
    return rng.choice((
        f"make {old} smaller", f"make {old} smaller", f"decrease the size of {old}", f"reduce the size of {old}",
        f"shrink {old}", f"{old} should be smaller", f"{old} is too big, make it smaller",
        f"smaller font for {old}", f"use a smaller font for {old}", f"scale {old} down",
    ))  # fmt: skip


def _things(group: tuple[PlacedShape, ...], rng: random.Random) -> str:
    """Say new shapes: `a red star`, `two red stars`."""
    name = f"{colour_name(group[0].colour, rng)} {group[0].kind}"
    return with_article(name) if len(group) == 1 else f"{rng.choice(COUNTS[len(group)])} {name}s"


def _known(scene: EverydayScene, group: tuple[PlacedShape, ...], rng: random.Random) -> str:
    """Name shapes that are there, by kind, and by colour or place when kind alone would not do."""
    one, plural = group[0], "s" * (len(group) > 1)
    others = [shape for shape in scene.shapes if shape not in group]
    kind, colour, where = f"{one.kind}{plural}", colour_name(one.colour, rng), _there(one.place, rng)
    names = []
    if not others:
        names += [f"the {kind}", f"the {kind}", f"the shape{plural}", f"the {colour} shape{plural}"]
    if all(shape.kind != one.kind for shape in others):
        names += [f"the {kind}", f"the {kind}"]
    if all((shape.kind, shape.colour) != (one.kind, one.colour) for shape in others):
        names += [f"the {colour} {kind}", f"the {colour} {kind}"]
    if len(group) > 1 and names:
        names += [f"the {rng.choice(COUNTS[len(group)])} {kind}"] if not others else []
    return rng.choice([*names, f"the {colour} {kind} {where}"])


def _shape_addition(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    group = edit.new_shapes
    words, where = _things(group, rng), place(group[0].place, rng) if edit.says_place else ""
    verb = rng.choice(("add", "add", "add", "draw", "put", "place", "insert", "include"))
    if where and where.split()[0] not in ODD_STARTS and rng.random() < 0.15:
        return f"{where} {rng.choice(('add', 'draw', 'put'))} {words}"
    if rng.random() < 0.08:
        return f"there should be {words} {where}".strip()
    return f"{verb} {words} {where}".strip()


def _shape_removal(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    old = _known(edit.condition, edit.old_shapes, rng)
    return rng.choice((
        f"remove {old}", f"remove {old}", f"delete {old}", f"erase {old}", f"take {old} away", f"get rid of {old}",
        f"take out {old}", f"I want it without {old}", f"without {old}", f"no {old.removeprefix('the ')}",
        f"{old} should go",
    ))  # fmt: skip


def _shape_colour(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    old, new = _known(edit.condition, edit.old_shapes, rng), colour_name(edit.new_shapes[0].colour, rng)
    return rng.choice((
        f"make {old} {new}", f"make {old} {new}", f"change {old} to {new}", f"turn {old} {new}", f"paint {old} {new}",
        f"change the {_colours(rng)} of {old} to {new}", f"{old} should be {new}", f"color {old} {new}",
        f"I want {old} in {new}", f"{old} in {new}", f"use {new} for {old}",
    ))  # fmt: skip


def _shape_move(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    old, where = _known(edit.condition, edit.old_shapes, rng), edit.new_shapes[0].place
    towards, there = _towards(where, rng), place(where, rng)
    return rng.choice((
        f"move {old} {towards}", f"move {old} {towards}", f"move {old} {towards}", f"put {old} {there}",
        f"{old} should be {there}", f"shift {old} {towards}", f"place {old} {there} instead", f"bring {old} {towards}",
    ))  # fmt: skip


def _towards(where: tuple[str, str], rng: random.Random) -> str:
    row, column = where
    if column == "centre":
        return "to the " + rng.choice({"middle": ("middle", "center", "centre")}.get(row, (row,)))
    if row == "middle":
        return f"to the {column}{rng.choice(('', ' side'))}"
    word = rng.choice({"top": ("top", "top", "upper"), "bottom": ("bottom", "bottom", "lower")}[row])
    return f"to the {word} {column}{rng.choice(('', ' corner'))}"


def _frame(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    noun, before, after = rng.choice(("border", "border", "frame")), edit.condition.frame, edit.target.frame
    old = rng.choice((f"the {noun}", f"the {noun}", f"the {colour_name(before.colour, rng)} {noun}"))
    if not after.thickness:
        return rng.choice((
            f"remove {old}", f"delete {old}", f"take {old} away", f"get rid of {old}", f"no {noun}", f"without {old}",
            f"erase {old}", f"I want it without {old}",
        ))  # fmt: skip
    new = colour_name(after.colour, rng)
    if before.thickness:
        return rng.choice((f"make {old} {new}", f"change {old} to {new}", f"turn {old} {new}", f"paint {old} {new}",
                           f"change the {_colours(rng)} of {old} to {new}", f"{old} should be {new}"))  # fmt: skip
    thin = rng.choice(("", "", "thin " if edit.target.frame_is_thin else "thick "))
    words = with_article(f"{thin}{new} {noun}")
    return rng.choice((f"add {words}", f"add {words}", f"put {words} around it", f"draw {words} around everything",
                       f"frame it in {new}", f"give it {words}", f"I want {words}", f"with {words}"))  # fmt: skip


_PHRASES: dict[str, Callable[[EverydayEdit, random.Random, Quote], str]] = {
    "background": _background,
    "text": _text,
    "add-text": _text_addition,
    "remove-text": _text_removal,
    "text-colour": _text_colour,
    "text-size": _text_size,
    "add-shape": _shape_addition,
    "remove-shape": _shape_removal,
    "shape-colour": _shape_colour,
    "move-shape": _shape_move,
    "frame": _frame,
}
