"""The everyday-edit suite: true images succeed, sources and images with another change do not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glmkit.evaluation import suites
from glmkit.evaluation.ocr.engines import paddleocr
from glmkit.evaluation.ocr.lines import RecognizedLine, reading_order
from glmkit.evaluation.suites import everyday_edit
from glmkit.evaluation.suites.everyday_edit import SUITE
from glmkit.evaluation.suites.shared.edits import texts_replaced
from glmkit.inputs.quotes import quoted_texts
from glmkit.posters.everyday import fonts
from glmkit.posters.everyday.edit_set import edit_records, edit_set
from glmkit.posters.everyday.edits import SHARES, EditKind, EverydayEdit
from glmkit.posters.everyday.render import render
from glmkit.posters.everyday.scene import ANCHORS, EverydayScene, shape_box, stand_in_row
from glmkit.posters.everyday.texts import chinese_words
from glmkit.posters.words import is_held_out

PROMPTS = {prompt.id: prompt for prompt in suites.prompts(suites.load("everyday-edit"))}
NAMES = [f"{kind}-{1 + number % 2:02d}" for number, kind in enumerate(SHARES)]  # English and Chinese in turn


def test_the_benchmark_file_holds_the_edits() -> None:
    stored = [json.loads(line) for line in everyday_edit.PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert stored == edit_records(), "write them again: python -m glmkit.posters.everyday.edit_set"
    assert Counter(row["split"] for row in stored) == SHARES
    assert Counter(row["language"] for row in stored) == {"en": 32, "zh": 32}
    asked = Counter(edit.language for edit in edit_set().values())
    assert min(asked.values()) > 20


def test_words_are_held_out_and_new_texts_quoted() -> None:
    for edit in edit_set().values():
        for text in (*edit.condition.texts, *edit.target.texts):
            if text.isascii():
                assert all(is_held_out(word.strip("!?.")) for word in text.split())
            else:
                assert any(word in text for word in chinese_words("held-out")), text
        new = set(edit.target.texts) - set(edit.condition.texts)
        assert new <= set(quoted_texts(edit.instruction)) <= {*edit.condition.texts, *new}


def lines_of(scene: EverydayScene, scale: float = 1.0) -> list[RecognizedLine]:
    """What an engine without fault reads: every line where it stands."""
    lines = []
    for block in scene.blocks:
        for number, text in enumerate(block.lines):
            width, baseline = fonts.unit_width(block.font, text) * block.size, block.baseline + number * block.leading
            left, top = block.x - ANCHORS[block.anchor] * width, baseline - fonts.capital(block.font) * block.size
            box = (left, top, left + width, baseline)
            lines.append(RecognizedLine(text, 0.9, tuple(round(scale * side) for side in box)))  # type: ignore[arg-type]
    return reading_order(lines)


def scores(name: str, image: Image.Image, lines: list[RecognizedLine], folder: Path) -> dict[str, float]:
    image.save(folder / "image.png")
    found = SUITE.counts(PROMPTS[name], lines, folder / "image.png")
    return {metric: top / bottom for metric, (top, bottom) in found.items() if bottom}


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_image_succeeds_and_the_source_does_not(name: str, tmp_path: Path) -> None:
    edit, images = edit_set()[name], SUITE.references(PROMPTS[name])
    right = scores(name, images["expected"], lines_of(edit.target), tmp_path)
    assert right == {"edit_success": 1, "background_psnr": 60, "word_accuracy": 1, "word_precision": 1}
    wrong = scores(name, images["condition_image"], lines_of(edit.condition), tmp_path)
    assert (wrong["edit_success"], wrong["background_psnr"]) == (0, 60)


def other_background(edit: EverydayEdit) -> EverydayScene:
    return replace(edit.target, background="lime")


def other_colour(edit: EverydayEdit) -> EverydayScene:
    return replace(edit.target, text_colour="lime", accent_colour="lime")


def other_place(edit: EverydayEdit) -> EverydayScene:
    """Set the new text at the upper edge when it should stand below another one or at the bottom, else at the lower."""
    block = edit.target.blocks[-1]
    baseline = 240 if edit.number is None and block.place[0] != "bottom" else 8 + block.size
    return replace(edit.target, blocks=(*edit.target.blocks[:-1], replace(block, baseline=baseline)))


def other_shapes(edit: EverydayEdit, **change: str) -> EverydayScene:
    changed = [replace(shape, **change) if shape in edit.new_shapes else shape for shape in edit.target.shapes]  # type: ignore[arg-type]
    return replace(edit.target, shapes=tuple(changed))


def twice(edit: EverydayEdit) -> EverydayScene:
    return replace(edit.target, shapes=(*edit.target.shapes[-3:], edit.old_shapes[0]))


def opposite(edit: EverydayEdit) -> EverydayScene:
    one, other = edit.new_shapes[0], {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
    place = other.get(one.place[0], "top"), other.get(one.place[1], "left")
    moved = stand_in_row(one.kind, one.colour, len(edit.new_shapes), place, one.radius, 256, 256)
    return replace(edit.target, blocks=(), shapes=tuple(moved))


WRONG: list[tuple[EditKind, Callable[[EverydayEdit], EverydayScene]]] = [
    ("background", other_background),
    ("text-colour", other_colour),
    ("add-text", other_place),
    ("add-shape", lambda edit: other_shapes(edit, kind="circle" if edit.new_shapes[0].kind != "circle" else "star")),
    ("add-shape", lambda edit: other_shapes(edit, colour="lime")),
    ("add-shape", lambda edit: replace(edit.target, shapes=edit.target.shapes[:-1])),
    ("add-shape", opposite),
    ("shape-colour", lambda edit: other_shapes(edit, colour="lime")),
    ("move-shape", twice),
    ("move-shape", opposite),
    ("frame", lambda edit: replace(edit.target, frame=replace(edit.target.frame, colour="lime"))),
]


@pytest.mark.parametrize(("kind", "change"), WRONG)
def test_another_change_is_not_what_was_asked_for(
    kind: EditKind, change: Callable[[EverydayEdit], EverydayScene], tmp_path: Path
) -> None:
    name, edit = next(
        (name, edit)
        for name, edit in edit_set().items()
        if edit.kind == kind and (kind != "frame" or edit.target.frame.thickness)
    )
    assert scores(name, render(change(edit)), lines_of(change(edit)), tmp_path)["edit_success"] == 0


def test_an_old_text_beside_the_new_one_is_no_replacement(tmp_path: Path) -> None:
    for name in ("text-01", "text-02", "remove-text-01"):
        edit = edit_set()[name]
        lines = [*lines_of(edit.target), *lines_of(edit.condition)]
        assert scores(name, render(edit.target), lines, tmp_path)["edit_success"] == 0


@pytest.mark.parametrize(("read", "right"), [
    (["FLORAL", "SALE"], True), (["FLORAL", "SALE", "FLORAL"], False), (["FLORAL", "SALE", "TAXI"], False),
    (["SALE"], False), (["FLORAL", "SALE", "else"], True),
])  # fmt: skip
def test_words_that_stay_may_be_read_as_often_as_they_stand(read: list[str], right: bool) -> None:
    lines = [RecognizedLine(text, 0.9, (0, 0, 9, 9)) for text in read]
    assert texts_replaced(["FLORAL SALE", "TAXI FLORAL"], ["FLORAL SALE"], lines, "en") == (right or read == ["SALE"])
    assert texts_replaced(["SALE", "TAXI"], ["FLORAL SALE"], lines, "en") == (right or read.count("FLORAL") == 2)


def test_half_of_a_shape_is_not_gone(tmp_path: Path) -> None:
    edit = edit_set()["remove-shape-01"]
    image = render(edit.target)
    for shape in edit.old_shapes:
        left, top, right, bottom = map(round, shape_box(shape, image.width))
        box = (left, top, (left + right) // 2, bottom)
        image.paste(render(edit.condition).crop(box), box)
    assert scores("remove-shape-01", image, lines_of(edit.target), tmp_path)["edit_success"] == 0


def test_what_may_be_larger_has_a_wider_margin(tmp_path: Path) -> None:
    """A new shape a tenth larger costs nothing outside; a source in other colours does."""
    edit = edit_set()["add-shape-01"]
    larger = [
        replace(shape, radius=1.1 * shape.radius) if shape in edit.new_shapes else shape for shape in edit.target.shapes
    ]
    image = render(replace(edit.target, shapes=tuple(larger)))
    assert scores("add-shape-01", image, lines_of(edit.target), tmp_path)["background_psnr"] == 60
    dimmed = Image.fromarray(np.asarray(image) // 2)
    assert scores("add-shape-01", dimmed, lines_of(edit.target), tmp_path)["background_psnr"] < 20


def test_a_larger_image_is_scaled(tmp_path: Path) -> None:
    for name in ("add-text-01", "add-shape-02", "text-size-01"):
        edit = edit_set()[name]
        large = render(edit.target).resize((512, 512), Image.Resampling.BICUBIC)
        found = scores(name, large, lines_of(edit.target, 2), tmp_path)
        assert found["edit_success"] == 1
        assert found["background_psnr"] > 30


@pytest.mark.thorough
def test_ocr_reads_what_true_images_show(tmp_path: Path) -> None:
    """The real engine on all true images: every edit succeeds, and nearly every word is read."""
    read, words = paddleocr.load("", 1, 0), []
    for name, edit in edit_set().items():
        render(edit.target).save(tmp_path / f"{name}.png")
        lines = reading_order(read(tmp_path / f"{name}.png", 0))
        found = scores(name, render(edit.target), lines, tmp_path)
        assert found["edit_success"] == 1, name
        words.append(found["word_accuracy"])
    assert np.mean(words) > 0.98
