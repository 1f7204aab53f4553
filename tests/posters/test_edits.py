"""Edits change what they say and nothing else, and their quotes are what the model must write."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from glmkit.inputs.quotes import quoted_texts
from glmkit.posters import fonts
from glmkit.posters.edits import KINDS, Edit, edit_scene, sample_edit, words_of
from glmkit.posters.grammar import COLOURS, MIN_SHAPE_CONTRAST, MIN_TEXT_CONTRAST, contrast, describe_shape
from glmkit.posters.masks import edits_with_masks, indexed_edit, indexed_scene, text_mask
from glmkit.posters.words import Split, is_held_out


@cache
def edits(count: int = 240, *, height: int = 256, width: int = 256, split: Split = "train") -> tuple[Edit, ...]:
    return tuple(indexed_edit(7, index, height=height, width=width, split=split) for index in range(count))


def test_a_series_samples_the_kinds_in_turn_and_the_same_edits_again() -> None:
    assert [edit.kind for edit in edits()] == list(KINDS) * 60
    for kind in KINDS:
        assert sample_edit(random.Random(5), kind) == sample_edit(random.Random(5), kind)


def test_masks_hold_the_letters_of_condition_and_target() -> None:
    alone, masks = edits_with_masks(300, 7, height=64, width=96)
    shared, same = edits_with_masks(300, 7, height=64, width=96, workers=2)
    assert alone == shared
    assert np.array_equal(masks, same)
    assert masks.shape == (300, 2, 64, 96)
    for index, edit in list(enumerate(alone))[:40]:
        assert np.array_equal(masks[index, 0], text_mask(edit.condition))
        assert np.array_equal(masks[index, 1], text_mask(edit.target))
        assert np.array_equal(*masks[index]) == (edit.kind != "word")


def test_target_differs_from_condition_in_what_the_kind_names() -> None:
    for edit in edits():
        condition, target = edit.condition, edit.target
        match edit.kind:
            case "background":
                assert condition.background != target.background
                assert replace(target, background=condition.background) == condition
            case "word":
                pairs = list(zip(condition.lines, target.lines, strict=True))
                (changed,) = [(old, new) for old, new in pairs if old != new]
                assert replace(changed[1], text=changed[0].text) == changed[0]
                assert replace(target, lines=condition.lines) == condition
            case "add" | "remove":
                bare, shaped = (condition, target) if edit.kind == "add" else (target, condition)
                assert bare.shape.kind == "none" != shaped.shape.kind
                assert replace(shaped, shape=bare.shape) == bare


def test_targets_can_be_read_and_stay_inside() -> None:
    for edit in (*edits(), *edits(80, height=320, width=192), *edits(80, height=192, width=320)):
        target = edit.target
        background = COLOURS[target.background]
        assert contrast(background, COLOURS[target.text_colour]) >= MIN_TEXT_CONTRAST
        if target.shape.kind != "none":
            assert contrast(background, COLOURS[target.shape.colour]) >= MIN_SHAPE_CONTRAST
        for line in target.lines:
            assert fonts.load(target.font, line.size).getlength(line.text) <= 0.95 * target.width


def test_a_word_edit_leaves_the_other_rows_alone() -> None:
    """The mask of the letters changes only where the replaced line stands."""
    for edit in [edit for edit in edits() if edit.kind == "word" and len(edit.condition.lines) == 2][:10]:
        rows = np.flatnonzero((text_mask(edit.condition) != text_mask(edit.target)).any(axis=1))
        (number,) = [n for n in (0, 1) if edit.condition.lines[n] != edit.target.lines[n]]
        line = edit.condition.lines[number]
        assert line.baseline - 1.1 * line.size <= rows.min()
        assert rows.max() <= line.baseline + 0.5 * line.size


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_instructions_quote_exactly_what_is_written(split: Split) -> None:
    """By the published extraction, which the glyph encoder reads; an unchanged text must not be asked for again."""
    for edit in edits(split=split):
        assert tuple(quoted_texts(edit.instruction)) == edit.new_texts
        gone = set(edit.condition.texts) - set(edit.target.texts)
        assert len(edit.new_texts) == len(gone) == (edit.kind == "word")


def test_instructions_name_what_changes() -> None:
    verbs = {kind: set[str]() for kind in KINDS}
    for edit in edits():
        text = edit.instruction
        match edit.kind:
            case "background":
                assert edit.target.background in text
                assert "background" in text
            case "word" if len(edit.condition.lines) == 2:
                (gone,) = set(edit.condition.texts) - set(edit.target.texts)
                number = edit.condition.texts.index(gone)
                assert ("the headline", "the second line")[number] in text or f"the text {gone}" in text
            case "add":
                assert describe_shape(edit.target.shape) in text
            case "remove":
                assert edit.condition.shape.kind in text or "shape" in text
        verbs[edit.kind].add(text.split()[0])
    assert min(map(len, verbs.values())) >= 4, "several ways to ask for everything"


def test_words_are_never_ambiguous() -> None:
    for edit in edits():
        if edit.kind == "word":
            assert not words_of(*edit.new_texts) & words_of(*edit.condition.texts)
            texts = [words_of(text) for text in edit.condition.texts]
            assert len(texts) == 1 or not texts[0] & texts[1]


def test_held_out_edits_show_held_out_words() -> None:
    for edit in edits(80, split="held-out"):
        for word in words_of(*edit.condition.texts, *edit.target.texts):
            assert is_held_out(word), edit


def test_a_scene_without_room_allows_no_shape() -> None:
    """Two lines that fill the poster."""
    scene = indexed_scene(7, 0, height=256, width=256, split="train")
    full = replace(scene, position="middle", lines=tuple(replace(scene.lines[0], baseline=b) for b in (70, 240)))
    full = replace(full, shape=replace(full.shape, kind="none"))
    assert edit_scene(full, "add", random.Random(0), "train") is None
    assert edit_scene(full, "background", random.Random(0), "train") is not None
