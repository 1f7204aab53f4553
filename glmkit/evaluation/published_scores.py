"""Scores that others have published on the public benchmarks, to stand beside measured ones, never among them.

Publishers disagree on the same model, and say little about how they drew its images: every row keeps its source and
the day when the source said so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import glmkit
from glmkit.files import read_jsonl
from glmkit.records import Record

FILE = Path(glmkit.__file__).parents[1] / "benchmarks" / "published.jsonl"
CLIPSCORE = "clipscore"  # 2.5 max(cosine, 0), what `Summary.alignment["clipscore"]` holds for measured images


@dataclass(frozen=True)
class PublishedScore(Record):
    """One model on one suite. `scores` maps a metric of the suite, or CLIPSCORE, to its value; `date` is YYYY-MM-DD."""

    suite: str
    model: str
    scores: Mapping[str, float]
    source: str
    url: str
    date: str


def published(suite: str) -> tuple[PublishedScore, ...]:
    """What is published on a suite, the best by its leading metric first; empty for suites of our own."""
    rows = [PublishedScore.from_dict(row) for row in read_jsonl(FILE)]
    return tuple(
        sorted(
            (row for row in rows if row.suite == suite), key=lambda row: next(iter(row.scores.values())), reverse=True
        )
    )
