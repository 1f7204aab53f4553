"""Edits of the everyday world change what they say and nothing else, and quote what the model must write."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from glmkit.inputs.quotes import quoted_texts
from glmkit.posters.everyday import colours, masks
from glmkit.posters.everyday.edits import SHARES, EditKind, EverydayEdit, sample_edit
from glmkit.posters.everyday.render import render
from glmkit.posters.everyday.scene import Border, EverydayScene, shape_box
from glmkit.posters.everyday.texts import chinese_words
from glmkit.posters.grammar import contrast
from glmkit.posters.words import words

SIZES = [(256, 256), (192, 320), (320, 192), (512, 512)]


@cache
def edits(kind: EditKind, count: int = 24, language: str = "") -> tuple[EverydayEdit, ...]:
    rng = random.Random(f"tests {kind}")
    sizes = SIZES * (count // len(SIZES))
    return tuple(sample_edit(rng, kind, height=height, width=width, language=language) for height, width in sizes)


@pytest.mark.parametrize("kind", SHARES)
def test_condition_and_target_differ_in_what_the_kind_names(kind: EditKind) -> None:
    """The other values of the scene are the same, so that all their pixels are, too."""
    for edit in edits(kind):
        condition, target = edit.condition, edit.target
        assert condition != target
        assert edit.kind == kind
        match kind:
            case "background":
                assert replace(target, background=condition.background) == condition
            case "text" | "text-size":
                changed = [(old, new) for old, new in zip(condition.blocks, target.blocks, strict=True) if old != new]
                assert replace(target, blocks=condition.blocks) == condition
                ((old, new),) = changed
                assert (old.x, old.anchor, old.place, old.accent) == (new.x, new.anchor, new.place, new.accent)
                assert (
                    (old.text == new.text) == (kind == "text-size") == (old.size != new.size and old.lines == new.lines)
                )
            case "add-text":
                assert target.blocks[:-1] == condition.blocks
                assert replace(target, blocks=condition.blocks, accent_colour=condition.accent_colour) == condition
            case "remove-text":
                assert set(target.blocks) < set(condition.blocks)
                assert replace(target, blocks=condition.blocks) == condition
            case "text-colour":
                plain = [replace(scene, text_colour="", accent_colour="") for scene in (condition, target)]
                assert [block.box for block in plain[0].blocks] == [block.box for block in plain[1].blocks]
                assert replace(plain[1], blocks=plain[0].blocks) == plain[0]
                colour_changes = [a != b for a, b in zip(inks(condition), inks(target), strict=True)]
                assert colour_changes == [edit.number in (None, n) for n in range(len(colour_changes))]
            case "frame":
                assert replace(target, frame=condition.frame) == condition
                assert (
                    Border() in (condition.frame, target.frame)
                    or replace(target.frame, colour=condition.frame.colour) == condition.frame
                )
            case _:
                assert replace(target, shapes=condition.shapes) == condition
                gone, come = edit.old_shapes, edit.new_shapes
                assert (bool(gone), bool(come)) == (kind != "add-shape", kind != "remove-shape")
                assert set(condition.shapes) - set(gone) == set(target.shapes) - set(come)
                if kind == "shape-colour":
                    assert [replace(shape, colour=gone[0].colour) for shape in come] == list(gone)
                if kind == "move-shape":
                    assert come[0].place != gone[0].place
                    assert {(s.kind, s.colour, s.radius) for s in gone} == {(s.kind, s.colour, s.radius) for s in come}


def inks(scene: EverydayScene) -> list[str]:
    return [scene.accent_colour if block.accent else scene.text_colour for block in scene.blocks]


@pytest.mark.parametrize("kind", [kind for kind in SHARES if kind not in ("background", "frame")])
def test_pixels_change_nowhere_else(kind: EditKind) -> None:
    """Outside the boxes of the texts and shapes that differ, rendered images are equal; letters may hang over a bit."""
    for edit in edits(kind)[:3]:
        before, after = (np.asarray(render(scene)) for scene in (edit.condition, edit.target))
        changed = (before != after).any(axis=2)
        assert changed.any()
        blocks = set(edit.condition.blocks) ^ set(edit.target.blocks)
        if kind == "text-colour":
            blocks = {block for n, block in enumerate(edit.condition.blocks) if edit.number in (None, n)}
        boxes = [(shape_box(shape, edit.target.width), 1.0) for shape in (*edit.old_shapes, *edit.new_shapes)]
        boxes += [(block.box, 0.2 * block.size) for block in blocks]
        for (left, top, right, bottom), over in boxes:
            rows, columns = (slice(max(0, int(a - over)), int(b + over) + 1) for a, b in ((top, bottom), (left, right)))
            changed[rows, columns] = False
        assert not changed.any(), edit


@pytest.mark.parametrize("kind", SHARES)
def test_instructions_quote_what_is_written_and_at_most_the_old_text(kind: EditKind) -> None:
    """By the published rule. Every new text is quoted once; an old one, or one that stays, only to name it."""
    for edit in edits(kind, 40):
        quoted = quoted_texts(edit.instruction)
        new = [text for text in edit.target.texts if text not in edit.condition.texts]
        known = [text for text in quoted if text not in new]
        assert [text for text in quoted if text in new] == new, edit.instruction
        assert len(new) == (kind in ("text", "add-text"))
        assert known in ([], *([text] for text in edit.condition.texts)), edit.instruction
        if kind in ("text", "remove-text", "text-colour", "text-size") and known:
            assert edit.condition.texts[edit.number or 0] == known[0]


def test_targets_are_scenes_as_others() -> None:
    """Everything is inside, touches nothing, and can be seen; new colours are clearly none of the old ones."""
    for edit in [edit for kind in SHARES for edit in edits(kind)]:
        target = edit.target
        background = colours.COLOURS[target.background][0]
        boxes = [block.box for block in target.blocks]
        for left, top, right, bottom in boxes:
            assert left >= -1, edit
            assert top >= 0, edit
            assert right <= target.width + 1, edit
            assert bottom <= target.height, edit
        boxes += [shape_box(shape, target.width) for shape in target.shapes]
        for one, first in enumerate(boxes):
            for second in boxes[:one]:
                assert first[1] >= second[3] or second[1] >= first[3] or first[2] <= second[0] or second[2] <= first[0]
        least = colours.MIN_ASKED_CONTRAST if edit.condition.is_faint else colours.MIN_TEXT_CONTRAST
        for ink in inks(target):
            assert contrast(background, colours.COLOURS[ink][0]) >= least
        for name in [shape.colour for shape in target.shapes] + [target.frame.colour] * bool(target.frame.thickness):
            assert contrast(background, colours.COLOURS[name][0]) >= colours.MIN_SHAPE_CONTRAST
        for old, new in (
            (edit.condition.background, target.background),
            *zip(inks(edit.condition), inks(target), strict=False),
        ):
            assert old == new or colours.are_different(old, new) or edit.kind == "remove-text"


@pytest.mark.parametrize("kind", ["remove-shape", "shape-colour", "move-shape"])
def test_a_shape_is_named_without_doubt(kind: EditKind) -> None:
    """By its kind where there are others, by its colour where one of them has this kind, by its place at last."""
    several = [edit for edit in edits(kind, 120) if edit.language == "en" and len(edit.condition.shape_groups) > 1]
    assert len(several) > 5
    for edit in several:
        said, one, groups = edit.instruction.lower(), edit.old_shapes[0], edit.condition.shape_groups
        assert one.kind in said
        same_kind = [group for group in groups if group[0] == one.kind]
        if len(same_kind) > 1:
            assert any(name in said for name in (one.colour, colours.ALIASES.get(one.colour, one.colour)))
        if len([group for group in same_kind if group[1] == one.colour]) > 1:
            assert one.place[0] in said or one.place[1] in said or "upper" in said or "lower" in said or "cent" in said


@pytest.mark.parametrize("language", ["en", "zh"])
def test_new_words_of_validation_are_held_out(language: str) -> None:
    rng = random.Random(5)
    held_out = set(words("held-out")) | set(chinese_words("held-out"))
    for _ in range(12):
        for kind in ("text", "add-text"):
            edit = sample_edit(rng, kind, split="held-out", language=language)
            for text in edit.target.texts:
                if text.isascii():
                    assert {word.strip("!?.").lower() for word in text.split()} <= held_out
                else:
                    assert not [word for word in chinese_words("train") if len(word) > 2 and word == text]


def test_people_ask_in_many_ways() -> None:
    """In both languages, also about texts of the other one; new texts may be of the other one, too."""
    rng = random.Random(3)
    sampled = [sample_edit(rng) for _ in range(400)]
    assert {edit.kind for edit in sampled} == set(SHARES)
    languages = Counter((edit.condition.language, edit.language) for edit in sampled)
    assert len(languages) == 4
    assert min(languages.values()) > 10
    assert len({edit.instruction.split()[0] for edit in sampled if edit.language == "en"}) > 40
    marks = Counter(mark for edit in sampled for mark in '"“「' if mark in edit.instruction)
    assert len(marks) == 3
    switched = [
        e
        for e in sampled
        if e.kind == "text" and e.target.texts[e.number or 0].isascii() != e.condition.texts[e.number or 0].isascii()
    ]
    assert switched


def test_a_series_is_the_same_whatever_the_workers() -> None:
    alone = masks.edits_with_masks(6, 3, height=96, width=160)
    shared = masks.edits_with_masks(6, 3, height=96, width=160, workers=2)
    assert alone[:2] == shared[:2]
    assert np.array_equal(alone[2], shared[2])
    for edit, pair in zip(alone[0], alone[2], strict=True):
        assert np.array_equal(pair[0], masks.text_mask(edit.condition))
        assert np.array_equal(pair[1], masks.text_mask(edit.target))
