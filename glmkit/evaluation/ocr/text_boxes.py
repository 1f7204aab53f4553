"""Where expected texts were read: boxes of the words that are assigned to them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from glmkit.evaluation.metrics.text import assign, normalise
from glmkit.evaluation.ocr.lines import RecognizedLine

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
FOUND = 0.5  # similarity from which what was read is the text, misspelt


def text_boxes(expected: Sequence[str], lines: Sequence[RecognizedLine]) -> list[Box | None]:
    """Return the box around each text, None for one that was not found.

    `lines` are in reading order. Words of a line share its width by their number of characters.
    """
    words: list[str] = []
    boxes: list[Box] = []
    for line in lines:
        left, top, right, bottom = line.box
        said = normalise(line.text)
        for word in re.finditer(r"\S+", said):
            words.append(word[0])
            start, stop = (left + (right - left) * end / len(said) for end in word.span())
            boxes.append((start, top, stop, bottom))
    found: list[Box | None] = [None] * len(expected)
    for match in assign(expected, words):
        if match.similarity >= FOUND:
            run = boxes[match.start : match.stop]
            lefts, tops, rights, bottoms = zip(*run, strict=True)
            found[match.text] = min(lefts), min(tops), max(rights), max(bottoms)
    return found
