"""Where OCR read lines and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmkit.files import write_jsonl
from glmkit.hashing import file_sha256
from glmkit.reporting.recognized import Box, line_boxes, recognized_lines, word_box

NEW = {"text": "new", "confidence": 0.9, "box": [0, 0, 30, 10]}
OLD = {"text": "old", "confidence": 0.9, "box": [0, 20, 30, 30]}


@pytest.mark.parametrize(
    ("texts", "boxes"),
    [
        (["new", "old"], ((0, 0, 30, 10), (0, 20, 30, 30))),
        (["old"], ((0, 20, 30, 30),)),  # a suite compares some lines only
        (["old", "new"], ()),  # another order than that of the engine: not of this engine
        (["new", "mine"], ()),
        ([], ()),
    ],
)
def test_boxes_are_those_of_the_lines_that_were_compared(
    tmp_path: Path, texts: list[str], boxes: tuple[Box, ...]
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"pixels")
    entry: dict[str, Any] = {"sha256": file_sha256(image), "engine": "other", "lines": [{**NEW, "text": "neu"}]}
    write_jsonl(tmp_path / "recognized_lines.jsonl", [entry, {**entry, "engine": "this", "lines": [NEW, OLD]}])
    with (tmp_path / "recognized_lines.jsonl").open("a") as file:
        file.write('{"sha256": "0", "lines": [{"text": 1}]}\n{"sha2')
    assert line_boxes(image, texts, recognized_lines(tmp_path)) == boxes
    assert line_boxes(image, texts, recognized_lines(tmp_path / "absent")) == ()


@pytest.mark.parametrize(
    ("text", "box", "start", "stop", "word"),
    [
        ("abcd efgh!", (10, 0, 110, 20), 5, 10, (60 - 7, -2, 110 + 7, 20 + 2)),  # ten letters of 10 pixels
        ("שלום עולם", (10, 0, 110, 20), 5, 9, (10 - 7, -2, 110 + 7, 20 + 2)),  # from the right: the whole line
        ("turned", (0, 0, 10, 60), 0, 2, (-3.5, -1, 13.5, 61)),
    ],
)
def test_a_word_has_its_share_of_the_line(text: str, box: Box, start: int, stop: int, word: Box) -> None:
    assert word_box([text], [box], start, stop) == pytest.approx(word)


def test_a_word_over_two_lines_has_a_box_around_both() -> None:
    left, top, right, bottom = word_box(["ab", "cd"], [(0, 0, 20, 10), (50, 30, 70, 40)], 1, 4)
    assert (left, top, right, bottom) == pytest.approx((10 - 3.5, -1, 60 + 3.5, 41))
