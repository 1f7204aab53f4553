"""Who stands where: the measured runs with their intervals, and what others have published, apart from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from glmkit.evaluation.published_scores import CLIPSCORE, PublishedScore, published
from glmkit.evaluation.stats import Estimate
from glmkit.reporting.compare import Comparison, paired
from glmkit.reporting.load import EvalRun


@dataclass(frozen=True)
class Standing:
    """A measured run. `rank` is 1 + the number of runs that are better by a resolved difference: ties share it.

    `number` is the place of the run in the report, which gives it its colour; `estimates` has one a column.
    """

    rank: int
    number: int
    run: str
    estimates: tuple[Estimate | None, ...]
    n_scored: int
    n_total: int


@dataclass(frozen=True)
class Leaderboard:
    """`columns` are (metric, direction); the first one ranks. `published` pairs a source with its value a column."""

    columns: tuple[tuple[str, str], ...]
    standings: tuple[Standing, ...]
    published: tuple[tuple[PublishedScore, tuple[float | None, ...]], ...]


def leaderboard(runs: Sequence[EvalRun], comparison: Comparison) -> Leaderboard:
    """The runs by rank, then by the leading metric, all on their common prompts."""
    sources = published(runs[0].summary.suite)
    clipscores = [clipscore(run, comparison) for run in runs]
    columns = [(metric.name, metric.direction) for metric in comparison.metrics]
    if any(clipscores) or any(CLIPSCORE in source.scores for source in sources):
        columns.append((CLIPSCORE, "higher"))
    places = ranks(comparison)
    standings = [
        Standing(
            rank=places[run.name],
            number=number,
            run=run.name,
            estimates=(
                *(metric.rows[number].estimate for metric in comparison.metrics),
                *([scale] if columns[-1][0] == CLIPSCORE else []),
            ),
            n_scored=sum(score.error is None for score in comparison.scores[run.name]),
            n_total=len(comparison.scores[run.name]),
        )
        for number, (run, scale) in enumerate(zip(runs, clipscores, strict=True))
    ]
    best_first = -1 if comparison.metrics[0].higher_is_better else 1
    return Leaderboard(
        columns=tuple(columns),
        standings=tuple(sorted(standings, key=lambda standing: (standing.rank, order(standing, best_first)))),
        published=tuple((source, tuple(source.scores.get(name) for name, _ in columns)) for source in sources),
    )


def order(standing: Standing, sign: int) -> float:
    """The leading value, best first; a run without any comes last."""
    lead = standing.estimates[0]
    return float("inf") if lead is None or lead.value is None else sign * lead.value


def ranks(comparison: Comparison) -> dict[str, int]:
    """1 + the number of runs that are better in the leading metric, by a difference that is resolved."""
    lead = comparison.metrics[0]
    places = dict.fromkeys(comparison.scores, 1)
    for base, other in combinations(comparison.scores, 2):
        outcome = paired(lead.name, base, other, comparison.scores, lead.higher_is_better).outcome
        if outcome != "open":
            places[other if outcome == "worse" else base] += 1
    return places


def clipscore(run: EvalRun, comparison: Comparison) -> Estimate | None:
    """CVTG's scale of the cosine, as the run computed it over its prompts; None where those are not the common ones."""
    score = run.summary.alignment.get("clipscore")
    if not score or run.prompts != set(comparison.prompts):
        return None
    return Estimate(score["value"], score["low"], score["high"], run.summary.n_prompts)
