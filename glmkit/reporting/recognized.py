"""Where OCR read the lines of an image, from the journal of a run: boxes of lines and of words in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from glmkit.errors import UserError
from glmkit.files import read_jsonl
from glmkit.hashing import file_sha256
from glmkit.shapes import check_shape

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
JOURNAL = "recognized_lines.jsonl"
UPRIGHT = 1.5  # times as high as wide, a box of several letters holds a turned line
MARGIN_X, MARGIN_Y = 0.35, 0.1  # of the height of a line, around a word: letters of a line are not equally wide


class StoredLine(TypedDict):
    """Hold what a line of the journal says of one recognized line."""

    text: str
    box: tuple[float, float, float, float]


class Recognized(TypedDict):
    """Hold what a line of the journal holds."""

    sha256: str
    lines: list[StoredLine]


RecognizedLines = Mapping[str, Sequence[Sequence[StoredLine]]]  # sha256 of an image -> its lines, by each engine


def recognized_lines(folder: Path) -> RecognizedLines:
    """Read the journal of a run; empty without one, and without those of its lines that are damaged."""
    found: dict[str, list[list[StoredLine]]] = {}
    path = folder / JOURNAL
    with suppress(UserError):  # boxes are an addition: a page without them is complete
        for number, line in enumerate(read_jsonl(path, partial=True) if path.is_file() else [], start=1):
            with suppress(UserError):
                check_shape(line, Recognized, f"{path}, line {number}")
                found.setdefault(line["sha256"], []).append(line["lines"])
    return found


def line_boxes(image: Path, texts: Sequence[str], recognized: RecognizedLines) -> tuple[Box, ...]:
    """Return the box of each of `texts`, the lines that were compared, in their order; none where one has none."""
    for lines in recognized.get(file_sha256(image), ()) if recognized and texts else ():
        rest = iter(lines)
        boxes = [next((line["box"] for line in rest if line["text"] == text), None) for text in texts]
        known = tuple((box[0], box[1], box[2], box[3]) for box in boxes if box is not None)
        if len(known) == len(texts):
            return known
    return ()


def word_box(texts: Sequence[str], boxes: Sequence[Box], start: int, stop: int) -> Box:
    """Return the box around the letters `start` to `stop` (exclusive) of the lines, which a line break joins.

    Letters share the width of their line equally, with a margin; of a turned line, and of one that may run from right
    to left, the whole box is taken.
    """
    parts: list[Box] = []
    first = 0
    for text, (left, top, right, bottom) in zip(texts, boxes, strict=True):
        a, b = max(start - first, 0), min(stop - first, len(text))
        first += len(text) + 1
        if a >= b:
            continue
        height = min(bottom - top, right - left)
        if is_left_to_right(text) and bottom - top < UPRIGHT * (right - left):
            width = (right - left) / len(text)
            left, right = left + a * width, left + b * width
        x, y = MARGIN_X * height, MARGIN_Y * height
        parts.append((left - x, top - y, right + x, bottom + y))
    lefts, tops, rights, bottoms = zip(*parts, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def is_left_to_right(text: str) -> bool:
    """Tell whether no letter belongs to a script that runs from right to left."""
    return not any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text)
