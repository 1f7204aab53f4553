"""Where expected texts were read, and how large: boxes of the words that are assigned to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean

from glmkit.evaluation.metrics.text import FOUND, assign, normalise
from glmkit.evaluation.ocr.lines import RecognizedLine

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def text_boxes(expected: Sequence[str], lines: Sequence[RecognizedLine]) -> list[Box | None]:
    """Return the box around each text, None for one that was not found; `lines` are in reading order."""
    found: list[Box | None] = []
    for boxes in _word_boxes(expected, lines):
        lefts, tops, rights, bottoms = zip(*boxes, strict=True) if boxes else ((),) * 4
        found.append((min(lefts), min(tops), max(rights), max(bottoms)) if boxes else None)
    return found


def text_heights(expected: Sequence[str], lines: Sequence[RecognizedLine]) -> list[float | None]:
    """Return the mean height in pixels of the lines that the words of each text stand in, None for one not found."""
    words = _word_boxes(expected, lines)
    return [mean(bottom - top for _, top, _, bottom in boxes) if boxes else None for boxes in words]


def _word_boxes(expected: Sequence[str], lines: Sequence[RecognizedLine]) -> list[list[Box]]:
    """Return the boxes of the words of each text; words of a line share its width by their number of characters."""
    words: list[str] = []
    boxes: list[Box] = []
    for line in lines:
        left, top, right, bottom = line.box
        said = normalise(line.text)
        for word in re.finditer(r"\S+", said):
            words.append(word[0])
            start, stop = (left + (right - left) * end / len(said) for end in word.span())
            boxes.append((start, top, stop, bottom))
    found: list[list[Box]] = [[] for _ in expected]
    for match in assign(expected, words):
        if match.similarity >= FOUND:
            found[match.text] = boxes[match.start : match.stop]
    return found
