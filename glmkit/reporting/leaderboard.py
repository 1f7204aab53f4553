"""The leaderboard: measured runs with their intervals, and published scores, apart from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from glmkit.evaluation.published_scores import (
    CLIPSCORE,
    Disagreement,
    PublishedScore,
    RelatedBenchmark,
    disagreements,
    published,
    related,
)
from glmkit.evaluation.stats import NO, Estimate, estimate
from glmkit.reporting.compare import Comparison
from glmkit.reporting.load import EvalRun

Source = tuple[PublishedScore, tuple[float | None, ...]]  # with its value per column


@dataclass(frozen=True)
class Standing:
    """A measured run. `rank` is 1 + the number of runs that are better by a resolved difference: ties share it.

    `index` is the position of the run in the report, which gives it its colour; `estimates` has one per column.
    `no_share` is the share of a judge's answers that were no, None where none was asked.
    """

    rank: int
    index: int
    run: str
    estimates: tuple[Estimate | None, ...]
    n_scored: int
    n_total: int
    no_share: float | None


@dataclass(frozen=True)
class Leaderboard:
    """`columns` are (metric, direction); the first one ranks. `published` maps headings to sources below them.

    `disagreements` are those of the sources, `related` the benchmarks that resemble the suite, with their own.
    """

    columns: tuple[tuple[str, str], ...]
    standings: tuple[Standing, ...]
    published: Mapping[str, tuple[Source, ...]]
    disagreements: tuple[Disagreement, ...]
    related: tuple[tuple[RelatedBenchmark, tuple[PublishedScore, ...], tuple[Disagreement, ...]], ...]


def leaderboard(runs: Sequence[EvalRun], comparison: Comparison) -> Leaderboard:
    """Order the runs by rank, then by the leading metric, all on their common prompts."""
    sources = published(runs[0].summary.suite)
    clipscores = [clipscore(run, comparison) for run in runs]
    columns = [(metric.name, metric.direction) for metric in comparison.metrics]
    if any(clipscores) or any(CLIPSCORE in source.scores for source in sources):
        columns.append((CLIPSCORE, "higher"))
    run_ranks = ranks(comparison)
    standings = [
        Standing(
            rank=run_ranks[run.name],
            index=index,
            run=run.name,
            estimates=(
                *(metric.estimates[run.name] for metric in comparison.metrics),
                *([clipscores[index]] if columns[-1][0] == CLIPSCORE else []),
            ),
            n_scored=sum(score.error is None for score in comparison.scores[run.name]),
            n_total=len(comparison.scores[run.name]),
            no_share=estimate(comparison.scores[run.name], NO).value,
        )
        for index, run in enumerate(runs)
    ]
    sign = -1 if comparison.metrics[0].higher_is_better else 1
    return Leaderboard(
        columns=tuple(columns),
        standings=tuple(sorted(standings, key=lambda standing: (standing.rank, leading_value(standing, sign)))),
        published={
            heading: tuple((source, tuple(source.scores.get(name) for name, _ in columns)) for source in below)
            for heading, below in by_judge(sources, {run.summary.judge for run in runs}).items()
        },
        disagreements=disagreements(sources),
        related=tuple(
            (one, scores, disagreements(scores)) for one, scores in related(runs[0].summary.suite, dict(columns))
        ),
    )


def by_judge(sources: Sequence[PublishedScore], judges: Collection[str]) -> dict[str, list[PublishedScore]]:
    """Sort sources under headings: those with the judge of a run first, in their order; "" is no judge."""
    if not any(judges):
        return {"Published by others, not measured here": list(sources)} if sources else {}
    same = [source for source in sources if any(map(source.has_judge, judges))]
    groups = {
        "Published by others with the same judge, not measured here": same,
        "Published by others with another judge, or without naming it": [one for one in sources if one not in same],
    }
    return {heading: below for heading, below in groups.items() if below}


def leading_value(standing: Standing, sign: int) -> float:
    """Return the leading value times `sign`, so that the best comes first; a run without any comes last."""
    lead = standing.estimates[0]
    return float("inf") if lead is None or lead.value is None else sign * lead.value


def ranks(comparison: Comparison) -> dict[str, int]:
    """Count, for each run, 1 + the runs that are better in the leading metric by a resolved difference."""
    run_ranks = dict.fromkeys(comparison.scores, 1)
    for difference in comparison.metrics[0].differences:
        if difference.outcome != "unresolved":
            run_ranks[difference.run if difference.outcome == "worse" else difference.baseline] += 1
    return run_ranks


def clipscore(run: EvalRun, comparison: Comparison) -> Estimate | None:
    """Return CLIPScore as the run computed it over its prompts; None where those are not the common ones."""
    score = run.summary.alignment.get("clipscore")
    if not score or run.prompts != set(comparison.prompts):
        return None
    return Estimate(score["value"], score["low"], score["high"], run.summary.n_prompts)
