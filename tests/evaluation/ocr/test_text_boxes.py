"""Where a text was read: around its words, on one line or several, and nowhere when it is another one."""

from __future__ import annotations

from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.evaluation.ocr.text_boxes import text_boxes


def line(text: str, left: int, top: int, right: int, bottom: int) -> RecognizedLine:
    return RecognizedLine(text, 0.9, (left, top, right, bottom))


def test_a_text_on_two_lines_has_the_box_of_both() -> None:
    lines = [
        line("The Quiet", 40, 10, 130, 40),
        line("Harbour", 30, 50, 140, 90),
        line("Maren Holt", 60, 200, 160, 220),
    ]
    assert text_boxes(["The Quiet Harbour", "Maren Holt"], lines) == [(30, 10, 140, 90), (60, 200, 160, 220)]


def test_two_texts_on_one_line_share_its_width() -> None:
    assert text_boxes(["Oui", "Non"], [line("OUI   Non", 10, 5, 80, 25)]) == [(10, 5, 40, 25), (50, 5, 80, 25)]


def test_chinese_and_misspelt_texts_are_found() -> None:
    lines = [line("春之声", 0, 0, 90, 30), line("音乐合", 0, 60, 90, 90)]
    assert text_boxes(["音乐会", "春之声"], lines) == [(0, 60, 90, 90), (0, 0, 90, 30)]


def test_another_text_is_none() -> None:
    assert text_boxes(["Pull me", "or push me"], [line("EXIT", 0, 0, 9, 9)]) == [None, None]
    assert text_boxes(["Pull me"], []) == [None]
