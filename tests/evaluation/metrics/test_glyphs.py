"""Malformed glyphs: values by hand, from the published rule."""

from __future__ import annotations

import pytest

from glmkit.evaluation.metrics.glyphs import cleaned, quality, semantic, transcription
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.suites.glyph_quality import SUITE
from glmkit.records import Prompt


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("OPEN", 1),
        ("OP<#>N", 3 / 4),
        ("OPEN <###>", 4 / 7),  # a word counts as three characters
        ("欢<#>光临", 3 / 4),
        ("<#><#>", 0),
        ("", 0),
        ("a b", 1),
    ],
)
def test_quality_is_the_share_of_well_formed_characters(text: str, value: float) -> None:
    assert quality(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "expected", "value"),
    [
        ("red fox", ["Red Fox"], 1),
        ("fox red", ["Red Fox"], 1),  # in any order
        ("red", ["Red Fox"], 1 / 2),
        ("red fox SALE", ["Red Fox"], 2 / 3),
        ("r<#>d fox", ["Red Fox"], 1 - 1 / 3 / 2),
        ("狐<#>", ["狐狸"], 0.5),  # the mark behind the last Chinese character is lost
        ("", ["Red Fox"], 0),
    ],
)
def test_semantic_is_one_minus_gned(text: str, expected: list[str], value: float) -> None:
    assert semantic(text, expected) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('{"recognized_text": "RED FOX"}', "RED FOX"),
        ('```json\n{"recognized_text": "RED, FOX"}\n```', "RED FOX"),
        ('{"recognized_text": ["RED", "FOX"]} Note: none', "RED FOX"),
        ('{"recognized_text": "RED\nFOX"}', "RED FOX"),
        ('{"recognized_text": "\\"RED FOX\\", \\"OWL, HEN\\""}', "RED FOX OWL, HEN"),
        ('Here: "recognized_text": "RED" and more', "RED"),
        ('{"recognized_text": ""}', ""),
    ],
)
def test_a_copy_is_read_out_of_its_json(answer: str, text: str) -> None:
    assert transcription(answer) == text


@pytest.mark.parametrize("answer", ["", "I see no text.", '{"text": "RED"}', '{"recognized_text": 5}', "[1]"])
def test_an_answer_without_a_copy_is_no_zero(answer: str) -> None:
    with pytest.raises(UnreadableAnswerError, match="recognized_text"):
        SUITE.judged(Prompt("p", "a 'RED'", ("RED",)), {"text": answer})


def test_quotes_and_punctuation_of_a_copy() -> None:
    assert cleaned("One, two。Three!") == "One two Three!"
    assert cleaned("'It, is', “so") == "It, is so"


def test_an_image_has_both_scores() -> None:
    counts = SUITE.judged(Prompt("p", "a 'RED FOX'", ("RED FOX",)), {"text": '{"recognized_text": "RED F<#>X"}'})
    assert {name: value for name, (value, _) in counts.items()} == pytest.approx(
        {"glyph_quality": 5 / 6, "glyph_semantic": 5 / 6}
    )
