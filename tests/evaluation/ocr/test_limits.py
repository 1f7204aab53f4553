"""What an engine cannot read is said, and nothing else."""

from __future__ import annotations

import pytest

from glmkit.evaluation.ocr.limits import limits

PADDLE = "glmkit.evaluation.ocr.engines.paddleocr"
READABLE = ["Café ﬁn – “Ünï” 50 %", "營業中", "ひらがな カタカナ", "Łódź, Straße"]
UNREADABLE = {"Привет": "п", "Ελλάδα": "ά", "مرحبا": "ا", "안녕": "녕", "สวัสดี": "ด", "Phở": "ở", "नमस्ते": "न"}


def test_letters_that_are_known_are_no_limit() -> None:
    (turned,) = limits(PADDLE, {str(number): [text] for number, text in enumerate(READABLE)})
    assert "upside down" in turned


@pytest.mark.parametrize("text", UNREADABLE)
def test_letters_that_are_not_known_are_named(text: str) -> None:
    _, letters = limits(PADDLE, {"a": ["OPEN"], "b": ["OPEN", text]})
    assert "some texts of 1 of 2 prompts" in letters
    assert UNREADABLE[text] in letters.split(": ")[1].split()


def test_an_engine_that_does_not_say_has_no_limits() -> None:
    assert limits("fake_ocr", {"a": ["Привет"]}) == ()
