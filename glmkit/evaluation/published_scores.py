"""Scores that others have published on the public benchmarks, to stand beside measured ones, never among them.

Publishers disagree on the same model, and say little about how they made its images: every record names its source
and the day when the source said so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glmkit import shipped
from glmkit.files import read_jsonl
from glmkit.records import Record

FILE = shipped.ROOT / "benchmarks" / "published.jsonl"
CLIPSCORE = "clipscore"  # 2.5 max(cosine, 0), what `Summary.alignment["clipscore"]` holds for measured images


@dataclass(frozen=True)
class PublishedScore(Record):
    """Hold the scores of one model on one suite.

    `scores` maps a metric of the suite, or CLIPSCORE, to its value; `date` is YYYY-MM-DD.
    """

    suite: str
    model: str
    scores: Mapping[str, float]
    source: str
    url: str
    date: str


def published(suite: str) -> tuple[PublishedScore, ...]:
    """List what is published on a suite, the best by its leading metric first; empty for suites of our own."""
    scores = [PublishedScore.from_dict(line) for line in read_jsonl(FILE)]
    of_suite = (score for score in scores if score.suite == suite)
    return tuple(sorted(of_suite, key=lambda score: next(iter(score.scores.values())), reverse=True))
