"""The nano-edit suite: what counts as success, what as unchanged, and that its files are the poster world's."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_ocr
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.plan import EvaluationPlan, GenerationSettings
from glmkit.evaluation.suites import nano_edit
from glmkit.files import read_jsonl
from glmkit.generation.pipeline import generate_batch
from glmkit.models.hybrid import HybridModel
from glmkit.posters.edit_set import EDITS_PER_KIND, edit_records, edit_set
from glmkit.posters.edits import KINDS, words_of
from glmkit.posters.render import render
from glmkit.posters.words import is_held_out
from glmkit.records import Prompt, Request, Score

PROMPTS = {prompt.id: prompt for prompt in suites.prompts(suites.load("nano-edit"))}


def test_the_benchmark_file_holds_the_edits() -> None:
    stored = [json.loads(line) for line in nano_edit.PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert stored == edit_records(), "write them again: python -m glmkit.posters.edit_set"
    assert Counter(row["split"] for row in stored) == dict.fromkeys(KINDS, EDITS_PER_KIND)


def test_the_edits_are_held_out_and_their_words_different() -> None:
    words = [word for edit in edit_set().values() for word in words_of(*edit.condition.texts, *edit.new_texts)]
    assert all(is_held_out(word) for word in words)
    assert max(Counter(words).values()) == 1


def counts(name: str, image: Image.Image, read: tuple[str, ...], folder: Path) -> dict[str, float]:
    path = folder / "image.png"
    image.save(path)
    found = nano_edit.SUITE.counts(PROMPTS[name], fake_ocr.recognized(*read), path)
    return {metric: top / bottom for metric, (top, bottom) in found.items() if bottom}


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_image_is_done_and_the_source_is_not(kind: str, tmp_path: Path) -> None:
    for name in (f"{kind}-02", f"{kind}-09"):
        edit, images = edit_set()[name], nano_edit.SUITE.references(PROMPTS[name])
        right = counts(name, images["expected"], edit.target.texts, tmp_path)
        assert right == {"edit_success": 1, "background_psnr": 60, "word_accuracy": 1, "word_precision": 1}
        wrong = counts(name, images["condition_image"], edit.condition.texts, tmp_path)
        assert wrong["edit_success"] == 0
        assert wrong["background_psnr"] == 60


def test_a_image_of_something_else_is_neither_done_nor_kept(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for kind in KINDS:
        found = counts(f"{kind}-01", Image.fromarray(noise), (), tmp_path)
        assert found["edit_success"] == 0 == found["word_accuracy"]
        assert found["background_psnr"] < 12


def test_a_text_beside_the_old_one_is_no_replacement(tmp_path: Path) -> None:
    edit = edit_set()["word-04"]
    image = render(edit.target)
    old = [text for text in edit.condition.texts if text not in edit.target.texts]
    both = counts("word-04", image, (*edit.target.texts, *old), tmp_path)
    words = [len(" ".join(texts).split()) for texts in (edit.target.texts, old)]
    assert (both["edit_success"], both["word_accuracy"], both["word_precision"]) == (0, 1, words[0] / sum(words))
    assert counts("word-04", image, edit.new_texts, tmp_path) == {
        "edit_success": 1,
        "background_psnr": 60,
        "word_accuracy": 0.5,
        "word_precision": 1,
    }
    assert counts("word-04", image, ("AFRAID",), tmp_path)["edit_success"] == 0


def test_a_half_removed_shape_is_not_gone(tmp_path: Path) -> None:
    """What is left is no shape of the grammar any more, but it is there."""
    name = "remove-06"
    edit = edit_set()[name]
    image, shape = render(edit.target), edit.condition.shape
    left, top = (round(side) for side in (shape.x - shape.radius, shape.y - shape.radius))
    box = (left, top, round(shape.x - 0.1 * shape.radius), round(shape.y + shape.radius))
    image.paste(render(edit.condition).crop(box), box)
    assert counts(name, image, edit.target.texts, tmp_path)["edit_success"] == 0


@pytest.mark.parametrize("change", ["kind", "colour", "x"])
def test_another_shape_is_not_the_one_that_was_asked_for(change: str, tmp_path: Path) -> None:
    name = "add-03"
    target = edit_set()[name].target
    changes: dict[str, Any] = {"kind": "star", "colour": "orange", "x": target.width - target.shape.x}
    image = render(replace(target, shape=replace(target.shape, **{change: changes[change]})))
    assert counts(name, image, target.texts, tmp_path)["edit_success"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_kept_counts_what_should_stay_and_only_that(kind: str, tmp_path: Path) -> None:
    """An error of 40 levels everywhere outside is 16 dB by the formula; changes inside the edit are free."""
    name = f"{kind}-02"
    edit = edit_set()[name]
    true, edited = (np.asarray(render(scene)).astype(np.int64) for scene in (edit.condition, edit.target))
    shifted = Image.fromarray(np.where(edited > 127, edited - 40, edited + 40).astype(np.uint8))
    assert counts(name, shifted, (), tmp_path)["background_psnr"] == pytest.approx(-20 * np.log10(40 / 255), abs=1e-6)
    rows, columns = np.nonzero((true != edited).any(axis=2))
    spot = edited.astype(np.uint8)
    middle = len(rows) // 2
    window = (
        slice(max(0, rows[middle] - 3), rows[middle] + 4),
        slice(max(0, columns[middle] - 3), columns[middle] + 4),
    )
    spot[window] = 255 - spot[window]
    assert counts(name, Image.fromarray(spot), (), tmp_path)["background_psnr"] == 60


def test_a_larger_image_is_scaled(tmp_path: Path) -> None:
    large = render(edit_set()["add-02"].target).resize((512, 512), Image.Resampling.BICUBIC)
    found = counts("add-02", large, edit_set()["add-02"].target.texts, tmp_path)
    assert found["edit_success"] == 1
    assert found["background_psnr"] > 35


def test_prompts_that_the_poster_world_does_not_draw_are_refused() -> None:
    for prompt in (Prompt("add-99", "Add a star.", ("A",)), replace(PROMPTS["add-01"], prompt="Add a star.")):
        with pytest.raises(UserError, match=r"glmkit.posters.edit_set >"):
            nano_edit.SUITE.references(prompt)


@pytest.mark.usefixtures("ocr_log")
def test_the_suite_runs_over_a_folder_of_images(tmp_path: Path) -> None:
    """Three of the first of each kind are right, one is the untouched source; sources lie in the run folder."""
    for kind in KINDS:
        edit = edit_set()[f"{kind}-01"]
        scene = edit.condition if kind == "add" else edit.target
        info = PngImagePlugin.PngInfo()
        info.add_text("does", "read")
        info.add_text("confidence", "0.9")
        for row, text in enumerate(scene.texts):
            info.add_itxt(f"line{row}", text)
        (tmp_path / "images").mkdir(exist_ok=True)
        render(scene).save(tmp_path / "images" / f"{kind}-01.png", pnginfo=info)
    plan = EvaluationPlan("nano-edit", "fake_ocr", limit=1, images=tmp_path / "images")
    summary = evaluate(plan, tmp_path / "run")
    assert summary.scores["edit_success"]["value"] == 0.75
    assert summary.scores["edit_success"]["low"] < 0.75  # type: ignore[operator]
    assert summary.splits["add"]["scores"]["edit_success"]["value"] == 0
    assert {Score.from_dict(row).value("background_psnr") for row in read_jsonl(tmp_path / "run" / "scores.jsonl")} == {
        60
    }
    with Image.open(tmp_path / "run" / "references" / "add-01" / "condition_image.png") as source:
        assert np.array_equal(np.asarray(source), np.asarray(render(edit_set()["add-01"].condition)))


@pytest.mark.usefixtures("ocr_log")
def test_a_model_edits_the_source_of_each_prompt(tiny_model: Path, tmp_path: Path) -> None:
    """The image of a run is what the pipeline makes of instruction and source."""
    drawing = GenerationSettings(str(tiny_model), (), 1, 64, 64, steps=1, guidance=1.5, dtype="float32")
    evaluate(EvaluationPlan("nano-edit", "fake_ocr", split="add", limit=1, generation=drawing), tmp_path / "run")
    source = tmp_path / "run" / "references" / "add-01" / "condition_image.png"
    request = Request("x", PROMPTS["add-01"].prompt, 0, 64, 64, (str(source),), steps=1, guidance=1.5)
    (expected,) = generate_batch(HybridModel.load(str(tiny_model)), [request])
    with Image.open(tmp_path / "run" / "images" / "add-01_0.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert image.text["condition_images"] == source.name  # type: ignore[attr-defined]
