"""Scores that others have published on the public benchmarks, to stand beside measured ones, never among them.

Publishers disagree on the same model, and say little about how they made its images: every record names its source
and the day when the source said so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from glmkit import shipped
from glmkit.files import read_jsonl
from glmkit.records import Record

FILE = shipped.ROOT / "benchmarks" / "published.jsonl"
SAME_QUESTIONS = {"dpg-first-word": "dpg"}  # suite -> the one whose published scores stand beside it
CLIPSCORE = "clipscore"  # 2.5 max(cosine, 0), what `Summary.alignment["clipscore"]` holds for measured images


@dataclass(frozen=True)
class PublishedScore(Record):
    """Hold the scores of one model on one suite.

    `scores` maps a metric of the suite, or CLIPSCORE, to its value; `date` is YYYY-MM-DD. `judge` is who answered the
    questions of the suite, "" where there are none or the source does not say.
    """

    suite: str
    model: str
    scores: Mapping[str, float]
    source: str
    url: str
    date: str
    judge: str = ""

    @property
    def cited(self) -> str:
        """The source with the judge, as a citation."""
        return f"{self.source}, judge {self.judge}" if self.judge else self.source


class Disagreement(NamedTuple):
    """Hold what several sources say about one model and metric: (value, source)."""

    model: str
    metric: str
    values: tuple[tuple[float, str], ...]


def published(suite: str) -> tuple[PublishedScore, ...]:
    """List what is published on a suite, the best by its leading metric first; empty for suites of our own."""
    scores = [PublishedScore.from_dict(line) for line in read_jsonl(FILE)]
    of_suite = (score for score in scores if score.suite == SAME_QUESTIONS.get(suite, suite))
    return tuple(sorted(of_suite, key=lambda score: next(iter(score.scores.values())), reverse=True))


def disagreements(scores: Sequence[PublishedScore]) -> tuple[Disagreement, ...]:
    """List the models and metrics for which several sources give different values, each value with who says so."""
    values: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for score in scores:
        for metric, value in score.scores.items():
            values.setdefault((score.model, metric), []).append((value, score.cited))
    return tuple(
        Disagreement(model, metric, tuple(said))
        for (model, metric), said in values.items()
        if len({value for value, _ in said}) > 1
    )
