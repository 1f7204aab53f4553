"""Scores that others have published on the public benchmarks, to stand beside measured ones, never among them.

Publishers disagree on the same model, and say little about how they made its images: every record names its source
and the day when the source said so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from glmkit import shipped
from glmkit.files import read_jsonl
from glmkit.records import Record

FILE = shipped.ROOT / "benchmarks" / "published.jsonl"
SAME_QUESTIONS = {"dpg-first-word": "dpg"}  # suite -> the one whose published scores stand beside it
CLIPSCORE = "clipscore"  # 2.5 max(cosine, 0), what `Summary.alignment["clipscore"]` holds for measured images
ALSO_CALLED = {"Qwen2.5-VL-72B": "QwenVL"}  # judge -> its name in the folder of TIIF-Bench's published answers


class RelatedBenchmark(NamedTuple):
    """Describe a benchmark that no suite measures; `differs` says why its scores do not compare with those of a suite.

    `metric` is its score. Its published scores stand on the pages of `beside`: a suite, or a metric of any suite.
    """

    title: str
    metric: str
    beside: str
    differs: str


RELATED: Mapping[str, RelatedBenchmark] = {
    "geneval": RelatedBenchmark(
        "GenEval",
        "geneval",
        "geneval2",
        "It has other, shorter prompts than GenEval 2, and an object detector instead of a judge. Some values are of "
        "prompts that a language model rewrote.",
    ),
    "wise-2025": RelatedBenchmark(
        "WISE, version of 2025",
        "wise_2025",
        "wise",
        "It has about 200 other prompts than the verified version, three grades for each image, and gpt-4o as its "
        "judge.",
    ),
    "hpdv3": RelatedBenchmark(
        "the HPSv3 benchmark",
        "hpsv3",
        "hpsv3",
        "It is HPSv3 on the prompts of its own twelve categories, and says nothing about other prompts.",
    ),
}


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
        """Return the source with the judge, as a citation."""
        return f"{self.source}, judge {self.judge}" if self.judge else self.source

    def has_judge(self, measured: str) -> bool:
        """Tell whether the judge is the one that a summary names, whose version may stand behind its name."""
        called = filter(None, (self.judge, ALSO_CALLED.get(self.judge)))
        names = "|".join(re.escape(name).replace(r"\ ", "[ -]") for name in called)
        pattern = rf"(?<![a-z0-9.-])(?:{names})(?:-instruct)?(?:-\d[\d-]*)?(?![a-z0-9.-])"
        return bool(names) and re.search(pattern, measured, re.IGNORECASE) is not None


class Disagreement(NamedTuple):
    """Hold what several sources say about one model and metric: (value, source)."""

    model: str
    metric: str
    values: tuple[tuple[float, str], ...]


def published(suite: str) -> tuple[PublishedScore, ...]:
    """List what is published on a suite, the best by its leading metric first; empty for suites of our own."""
    scores = (PublishedScore.from_dict(line) for line in read_jsonl(FILE))
    of_suite = (score for score in scores if score.suite == SAME_QUESTIONS.get(suite, suite))
    return tuple(sorted(of_suite, key=lambda score: next(iter(score.scores.values())), reverse=True))


def related(suite: str, metrics: Collection[str]) -> tuple[tuple[RelatedBenchmark, tuple[PublishedScore, ...]], ...]:
    """List the benchmarks that resemble a suite, or one of these metrics of it, with what is published on them."""
    return tuple((one, published(name)) for name, one in RELATED.items() if one.beside in (suite, *metrics))


def disagreements(scores: Sequence[PublishedScore]) -> tuple[Disagreement, ...]:
    """List the models and metrics for which sources give values of other thousandths, each value with who says so."""
    values: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for score in scores:
        for metric, value in score.scores.items():
            values.setdefault((score.model, metric), []).append((value, score.cited))
    return tuple(
        Disagreement(model, metric, tuple(said))
        for (model, metric), said in values.items()
        if len({round(value, 3) for value, _ in said}) > 1
    )
