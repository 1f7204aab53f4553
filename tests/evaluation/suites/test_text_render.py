"""text-render: what the pixels show is counted where the ground truth is known, and where texts stand, where named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_ocr
import pytest
from PIL import Image
from scripts import load_script

from glmkit.evaluation.ocr.engines import paddleocr
from glmkit.evaluation.ocr.lines import RecognizedLine, reading_order
from glmkit.evaluation.suites.text_render import METRICS, PROMPTS, SUITE, counts
from glmkit.posters.everyday.render import render as render_everyday
from glmkit.posters.render import render
from glmkit.posters.simple import attribute_checks, layout_prompts, nano_prompts, retro_prompts
from glmkit.posters.style_set import render_framed
from glmkit.records import Prompt

control = load_script("everyday_control")


def test_every_prompt_of_nano_knows_what_its_image_must_show(tmp_path: Path) -> None:
    """And others do not: they are not counted."""
    prompts, ours = {prompt.id: prompt for prompt in SUITE.read([PROMPTS])}, nano_prompts()
    assert {name for name, prompt in prompts.items() if prompt.split in ours} == set(attribute_checks())
    image = tmp_path / "image.png"
    for (name, scene, _), draw, properties in (
        (layout_prompts()[0], render, 5),
        (retro_prompts()[0], render_framed, 6),
    ):
        draw(scene).save(image)
        assert counts(prompts[name], fake_ocr.recognized(*scene.texts), image)["attribute_accuracy"] == (
            properties,
            properties,
        )
    assert counts(prompts["simple-001"], (), image)["attribute_accuracy"][0] < 4
    unknown = next(prompt for prompt in prompts.values() if prompt.split == "long")
    assert counts(unknown, (), image)["attribute_accuracy"] == (0, 0)


SIGN = Prompt(
    "sign",
    "A sign: “Vera Lund” at the top, “5 June” at the bottom, navy on ivory, a gold hexagon in the middle",
    ("Vera Lund", "5 June"),
    named={
        "background": "ivory",
        "text_colours": ["navy", "navy"],
        "places": ["top", "bottom"],
        "shapes": [{"kind": "hexagon", "colour": "gold", "place": "middle", "count": 1}],
    },
)
WORDS = {"word_accuracy", "word_precision", "ned", "cer", "character_accuracy"}
PLACES = {"texts_in_place", "all_texts_in_place"}


@pytest.fixture(scope="module")
def read() -> Callable[[Path, int], list[RecognizedLine]]:
    """The real OCR engine, loaded once."""
    return paddleocr.load("", 1, 0)


@pytest.mark.parametrize(
    ("fault", "costs"),
    [
        ({}, set()),
        ({"texts": ("5 June", "Vera Lund")}, PLACES),
        ({"texts": ("Vera Land", "5 June")}, WORDS),
        ({"texts": ("Omelettes", "5 June")}, WORDS | PLACES),
        ({"background": "light green"}, {"attribute_accuracy"}),
        ({"shapes": []}, {"attribute_accuracy"}),
    ],
)
def test_a_fault_costs_the_score_that_it_should(
    fault: dict[str, Any], costs: set[str], read: Callable[[Path, int], list[RecognizedLine]], tmp_path: Path
) -> None:
    """The real OCR engine, on images that show what the prompt asks for but for one thing."""
    shown = replace(SIGN, texts=fault.pop("texts", SIGN.texts), named={**SIGN.named, **fault})
    scene = control.scene_of(shown)
    render_everyday(scene).save(tmp_path / "sign.png")
    lines = reading_order(read(tmp_path / "sign.png", 0))
    found = counts(SIGN, lines, tmp_path / "sign.png")
    right = {metric: 0 if metric == "cer" else 1 for metric in METRICS}
    assert {metric for metric in METRICS if found[metric][0] / found[metric][1] != right[metric]} == costs


def test_a_prompt_that_names_nothing_is_not_counted(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "sign.png")
    found = counts(replace(SIGN, named={}), (), tmp_path / "sign.png")
    absent = {"attribute_accuracy", "word_precision", *PLACES}
    assert {metric for metric in METRICS if found[metric] == (0, 0)} == absent
