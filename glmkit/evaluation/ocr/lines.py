"""What an OCR engine gives: recognized lines, and the identity of the engine that recognized them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from glmkit.hashing import json_sha256
from glmkit.records import Record

MIN_CONFIDENCE = 0.5  # as in the public CVTG-2K scripts; lines below are what OCR imagines in textures


@dataclass(frozen=True)
class RecognizedLine(Record):
    """Hold one line of text that OCR found: confidence in 0..1, box = left, top, right, bottom in pixels."""

    text: str
    confidence: float
    box: tuple[int, int, int, int]


def line_around(text: str, confidence: float, polygon: Sequence[Sequence[float]]) -> RecognizedLine:
    """Return a line whose box is the one around a polygon of points x, y."""
    (left, right), (top, bottom) = ((int(min(axis)), int(max(axis))) for axis in zip(*polygon, strict=True))
    return RecognizedLine(text, round(float(confidence), 4), (left, top, right, bottom))


def texts_of(lines: Sequence[RecognizedLine]) -> tuple[str, ...]:
    """Return what the lines say, without where they stand."""
    return tuple(line.text for line in lines)


def confident(lines: Sequence[RecognizedLine]) -> list[RecognizedLine]:
    """Return the lines that count, in reading order: those of which OCR is sure enough."""
    return [line for line in reading_order(lines) if line.confidence >= MIN_CONFIDENCE]


class OcrError(Exception):
    """OCR failed on one image."""


OcrResult = tuple[RecognizedLine, ...] | OcrError


@dataclass(frozen=True)
class EngineIdentity(Record):
    """Name everything that decides what an engine recognizes.

    `engine` is its name with its settings, `weights` maps its files to their sha256. `versions` are the other packages:
    lines that were recognized with others are not used again, but are as official.
    """

    engine: str
    weights: Mapping[str, str] = field(default_factory=dict)
    versions: str = ""

    @property
    def key(self) -> str:
        """Name all of it in 16 hexadecimal digits."""
        return json_sha256(self.to_dict())[:16]

    def __str__(self) -> str:
        weights = f"weights {json_sha256(dict(self.weights))[:12]}" if self.weights else ""
        return " ".join(filter(None, (self.engine, self.versions, weights)))


def reading_order(lines: Sequence[RecognizedLine]) -> list[RecognizedLine]:
    """Sort lines by rows from the top, each row from the left.

    A line joins a row when it overlaps at least half of the lower of the two heights with the row's first line.
    """
    rows: list[list[RecognizedLine]] = []
    for line in sorted(lines, key=lambda line: (line.box[1], line.box[0])):
        for row in rows:
            (_, top, _, bottom), (_, row_top, _, row_bottom) = line.box, row[0].box
            if 2 * (min(bottom, row_bottom) - max(top, row_top)) >= max(1, min(bottom - top, row_bottom - row_top)):
                row.append(line)
                break
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]
