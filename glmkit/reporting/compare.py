"""The numbers of a report: scores, splits and paired differences on the common prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from glmkit.evaluation import stats
from glmkit.evaluation.stats import Estimate
from glmkit.records import Score
from glmkit.reporting import words
from glmkit.reporting.load import EvalRun
from glmkit.reporting.plot import Axis, axis
from glmkit.reporting.provenance import drawn_with
from glmkit.reporting.words import Difference


@dataclass(frozen=True)
class Row:
    """One line of an interval plot. `group` is the split or language, empty in the overall plot."""

    group: str
    run: str
    estimate: Estimate


@dataclass(frozen=True)
class Grouping:
    """The prompts by `kind` (split or language): `groups` maps each name to a row a run."""

    kind: str
    groups: dict[str, tuple[Row, ...]]


@dataclass(frozen=True)
class Metric:
    """A metric with what it means and what was measured; `direction` is higher or lower (is better)."""

    name: str
    direction: str
    definition: str
    axis: Axis
    rows: tuple[Row, ...]
    groupings: tuple[Grouping, ...]
    differences: tuple[Difference, ...]

    @property
    def higher_is_better(self) -> bool:
        return self.direction == "higher"

    @property
    def smallest_group(self) -> int:
        """Prompts of the smallest group that has an interval of its own; of all when there are no groups."""
        in_groups = [row for grouping in self.groupings for rows in grouping.groups.values() for row in rows]
        return min((row.estimate.n for row in in_groups or self.rows if row.estimate.n), default=0)


@dataclass(frozen=True)
class Comparison:
    """`prompts` are the common ones, in the order of the first run, `scores` theirs in each run.

    `notes` say what limits the comparison.
    """

    metrics: tuple[Metric, ...]
    prompts: tuple[str, ...]
    scores: dict[str, list[Score]]
    verdict: str
    notes: tuple[str, ...]


def compare(runs: Sequence[EvalRun]) -> Comparison:
    """Score all runs on their common prompts; the metrics are those that every run has, the first one leads."""
    common = set.intersection(*(run.prompts for run in runs))
    prompts = tuple(dict.fromkeys(image.prompt_id for image in runs[0].images if image.prompt_id in common))
    scores = {run.name: [score for score in run.scores if score.prompt_id in common] for run in runs}
    aside = {name for name, _ in clips(runs)} if len(clips(runs)) > 1 else set()
    shared = [name for name in runs[0].summary.metrics if all(name in run.summary.metrics for run in runs)]
    names = [name for name in shared if name not in aside]
    metrics = tuple(measure(name, runs[0].summary.metrics[name], scores) for name in names)
    return Comparison(metrics, prompts, scores, say_verdict(metrics[0], scores), tuple(notes(runs, common)))


def clips(runs: Sequence[EvalRun]) -> set[tuple[str | None, str | None]]:
    """The metric and the weights of each run's CLIP: cosines of several cannot be compared, whatever their names."""
    return {(run.summary.alignment.get("metric"), run.summary.alignment.get("weights_sha256")) for run in runs}


def measure(name: str, about: Mapping[str, str], scores: dict[str, list[Score]]) -> Metric:
    """Pool one metric over each run, split and language, and pair every run with those before it."""
    rows = tuple(Row("", run, stats.estimate(rows, name)) for run, rows in scores.items())
    groupings = tuple(
        grouping
        for kind in ("split", "language")
        if len((grouping := group(name, kind, scores)).groups) > 1  # one group is the whole
    )
    in_groups = [row for grouping in groupings for members in grouping.groups.values() for row in members]
    higher = about["direction"] == "higher"
    return Metric(
        name=name,
        direction=about["direction"],
        definition=about["definition"],
        axis=axis(row.estimate for row in (*rows, *in_groups)),
        rows=rows,
        groupings=groupings,
        differences=tuple(paired(name, base, other, scores, higher) for base, other in combinations(scores, 2)),
    )


def group(metric: str, kind: str, scores: dict[str, list[Score]]) -> Grouping:
    """Pool one metric over each split or language, in order of first appearance."""
    names = list(dict.fromkeys(getattr(score, kind) for rows in scores.values() for score in rows))
    return Grouping(
        kind,
        {
            name: tuple(
                Row(name, run, stats.estimate([score for score in rows if getattr(score, kind) == name], metric))
                for run, rows in scores.items()
            )
            for name in names
        },
    )


def paired(metric: str, base: str, other: str, scores: dict[str, list[Score]], higher: bool) -> Difference:
    estimate = Estimate(*stats.paired_difference(scores[base], scores[other], metric))
    return words.difference(base, other, estimate, higher)


def say_verdict(metric: Metric, scores: dict[str, list[Score]]) -> str:
    """Two runs: the second against the first. More: the best against the second best."""
    estimates = {row.run: row.estimate for row in metric.rows}
    known = [run for run, estimate in estimates.items() if estimate.value is not None]
    lead = None
    if len(scores) == 2 and len(known) == 2:
        lead = metric.differences[0]
    elif len(known) > 1:
        ranked = sorted(known, key=lambda run: estimates[run].value or 0.0, reverse=metric.higher_is_better)
        lead = paired(metric.name, ranked[1], ranked[0], scores, metric.higher_is_better)
    return words.verdict(metric.name, estimates, lead, metric.higher_is_better)


def notes(runs: Sequence[EvalRun], common: set[str]) -> list[str]:
    """What a reader must know before trusting the difference between these runs."""
    said = []
    if any(run.prompts != common for run in runs):
        amounts = words.enumerate_words([f"{len(run.prompts)} in {run.name}" for run in runs])
        said.append(
            f"The runs have different prompts ({amounts}). All numbers and images on this page are for the "
            f"{words.count(len(common), 'common prompt')}."
        )
    failed = [
        f"{run.summary.n_total - run.summary.n_scored} of {words.count(run.summary.n_total, 'image')} of {run.name}"
        for run in runs
        if run.summary.n_scored < run.summary.n_total
    ]
    if failed:
        amounts = words.enumerate_words(failed)
        said.append(f"{amounts} could not be made or read. They are missing from the scores, not counted as 0.")
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for run in runs:
        if run.summary.why_not_official:
            alike.setdefault((run.summary.family, tuple(run.summary.why_not_official)), []).append(run.name)
    said += [
        f"The scores of {words.enumerate_words(names)} are not official ({family}): {'; '.join(why)}."
        for (family, why), names in alike.items()
    ]
    if len(clips(runs)) > 1:
        said.append("CLIP alignment was measured by different models, or not for every run; it is not compared.")
    for about, values in (
        ("read by different OCR engines", [run.summary.ocr for run in runs]),
        ("made from different versions of the suite", [run.manifest["settings"]["suite_fingerprint"] for run in runs]),
        ("drawn with different seeds", [str(run.seeds) for run in runs]),
        ("drawn with different settings", [drawn_with(run.manifest["settings"]) for run in runs]),
    ):
        if len(set(values)) > 1:
            said.append(f"The images were {about}; part of the difference may come from that.")
    return said
