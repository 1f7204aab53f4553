"""The numbers of a report: scores, groups of prompts and paired differences on the common prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from glmkit.errors import UserError
from glmkit.evaluation import stats
from glmkit.evaluation.stats import Estimate
from glmkit.records import Score
from glmkit.reporting import wording
from glmkit.reporting.axis import Axis, fit_axis
from glmkit.reporting.gallery_order import choose_shown, prompt_means
from glmkit.reporting.load import EvalRun
from glmkit.reporting.provenance import generation_settings
from glmkit.reporting.wording import Difference

MAX_SHOWN = 10_000  # prompts with their images on a page; more make it slow to open
Scores = Mapping[str, Sequence[Score]]  # run -> its scores on the common prompts
Estimates = dict[str, Estimate]  # run -> its pooled score


@dataclass(frozen=True)
class MetricComparison:
    """One metric of all runs; `direction` is higher or lower (is better).

    `groupings` maps "split" and "language" to the groups of prompts, each with the scores of the runs; a grouping with
    one group is left out. `differences` has one for each pair of runs.
    """

    name: str
    direction: str
    definition: str
    axis: Axis
    estimates: Estimates
    groupings: dict[str, dict[str, Estimates]]
    differences: tuple[Difference, ...]

    @property
    def higher_is_better(self) -> bool:
        """Tell whether a higher value is better."""
        return self.direction == "higher"

    @property
    def smallest_group(self) -> int:
        """Return the number of prompts behind the interval of the smallest group, of all where there are none."""
        estimates = list(group_estimates(self.groupings)) or self.estimates.values()
        return min((estimate.n for estimate in estimates if estimate.n), default=0)


@dataclass(frozen=True)
class Comparison:
    """All metrics on the common `prompts` (in the order of the first run), with the `scores` of each run on them.

    `shown` are the prompts whose images a page shows: all of them, or `MAX_SHOWN`. `lead` is the difference that the
    `verdict` is about, None where fewer than two runs have a score. `notes` say what limits the comparison.
    """

    metrics: tuple[MetricComparison, ...]
    prompts: tuple[str, ...]
    shown: tuple[str, ...]
    scores: dict[str, list[Score]]
    lead: Difference | None
    verdict: str
    notes: tuple[str, ...]


def compare(runs: Sequence[EvalRun]) -> Comparison:
    """Score all runs on their common prompts; the metrics are those that every run has, the first one leads."""
    common = set.intersection(*(run.prompts for run in runs))
    prompts = tuple(dict.fromkeys(image.prompt_id for image in runs[0].images if image.prompt_id in common))
    scores = {run.name: [score for score in run.scores if score.prompt_id in common] for run in runs}
    names = comparable_metrics(runs)
    metrics = tuple(compare_metric(name, runs[0].summary.metrics[name], scores) for name in names)
    lead, notes = lead_difference(metrics[0], scores), comparison_notes(runs, common)
    verdict = wording.verdict(metrics[0].name, metrics[0].estimates, lead, metrics[0].higher_is_better)
    shown = prompts if len(prompts) <= MAX_SHOWN else shown_prompts(runs, prompts, metrics, scores)
    if len(shown) < len(prompts):
        notes.append(
            f"Images are shown of {len(shown):,} of {len(prompts):,} prompts: the extremes of every order, and others "
            "evenly spread. All numbers, and the CSV and JSON files, are those of all prompts."
        )
    return Comparison(metrics, prompts, shown, scores, lead, verdict, tuple(notes))


def shown_prompts(
    runs: Sequence[EvalRun], prompts: Sequence[str], metrics: Sequence[MetricComparison], scores: Scores
) -> tuple[str, ...]:
    """Choose `MAX_SHOWN` of the common prompts."""
    signs = {metric.name: 1 if metric.higher_is_better else -1 for metric in metrics}
    means = [prompt_means(of_run, signs) for of_run in scores.values()]
    failed = {score.prompt_id for of_run in scores.values() for score in of_run if score.error is not None}
    texts = {image.prompt_id: image.prompt for image in runs[0].images}
    return choose_shown({one: texts[one] for one in prompts}, means, failed, MAX_SHOWN)


def comparable_metrics(runs: Sequence[EvalRun]) -> tuple[str, ...]:
    """Name the metrics that every run has, in the order of the first run; UserError when there are none.

    Cosines of several CLIP models cannot be compared, whatever their names.
    """
    clip_models = _clip_models(runs)
    incomparable = {name for name, _ in clip_models} if len(clip_models) > 1 else set()
    first, *others = (run.summary.metrics for run in runs)
    names = tuple(name for name in first if name not in incomparable and all(name in other for other in others))
    if not names:
        found = "; ".join(f"{run.name}: {', '.join(run.summary.metrics) or 'none'}" for run in runs)
        raise UserError("the runs have no metric in common", found=found, fix="evaluate all of them again")
    return names


def _clip_models(runs: Sequence[EvalRun]) -> set[tuple[str | None, str | None]]:
    return {(run.summary.alignment.get("metric"), run.summary.alignment.get("weights_sha256")) for run in runs}


def compare_metric(name: str, about: Mapping[str, str], scores: Scores) -> MetricComparison:
    """Pool one metric over each run, split and language, and pair every run with those before it."""
    estimates = pool(name, scores)
    groupings = {kind: groups for kind in ("split", "language") if len(groups := pool_groups(name, kind, scores)) > 1}
    higher = about["direction"] == "higher"
    return MetricComparison(
        name=name,
        direction=about["direction"],
        definition=about["definition"],
        axis=fit_axis([*estimates.values(), *group_estimates(groupings)]),
        estimates=estimates,
        groupings=groupings,
        differences=tuple(
            paired_difference(name, baseline, run, scores, higher) for baseline, run in combinations(scores, 2)
        ),
    )


def pool(metric: str, scores: Scores) -> Estimates:
    """Pool one metric over the prompts of each run."""
    return {run: stats.estimate(of_run, metric) for run, of_run in scores.items()}


def pool_groups(metric: str, kind: str, scores: Scores) -> dict[str, Estimates]:
    """Pool one metric over each split or language (`kind`), in order of first appearance."""
    groups = dict.fromkeys(getattr(score, kind) for of_run in scores.values() for score in of_run)
    return {
        group: pool(
            metric,
            {run: [score for score in of_run if getattr(score, kind) == group] for run, of_run in scores.items()},
        )
        for group in groups
    }


def group_estimates(groupings: Mapping[str, Mapping[str, Estimates]]) -> Iterator[Estimate]:
    """Yield the score of every run in every group."""
    for groups in groupings.values():
        for estimates in groups.values():
            yield from estimates.values()


def paired_difference(metric: str, baseline: str, run: str, scores: Scores, higher_is_better: bool) -> Difference:
    """Subtract `baseline` from `run`, prompt by prompt."""
    estimate = Estimate(*stats.paired_difference(scores[baseline], scores[run], metric))
    return wording.difference(baseline, run, estimate, higher_is_better)


def lead_difference(metric: MetricComparison, scores: Scores) -> Difference | None:
    """Compare the second of two runs with the first, or the best of more with the second best."""
    values = {run: estimate.value for run, estimate in metric.estimates.items() if estimate.value is not None}
    if len(values) < 2:
        return None
    if len(scores) == 2:
        return metric.differences[0]
    best, second, *_ = sorted(values, key=lambda run: values[run], reverse=metric.higher_is_better)
    return paired_difference(metric.name, second, best, scores, metric.higher_is_better)


def comparison_notes(runs: Sequence[EvalRun], common: set[str]) -> list[str]:
    """Say what a reader must know before trusting the scores: missing prompts and images, unofficial scores."""
    notes = []
    if any(run.prompts != common for run in runs):
        amounts = wording.join_with_and([f"{len(run.prompts)} in {run.name}" for run in runs])
        notes.append(
            f"The runs have different prompts ({amounts}). All numbers and images here are for the "
            f"{wording.count(len(common), 'common prompt')}."
        )
    failed = [
        f"{run.summary.n_total - run.summary.n_scored} of {wording.count(run.summary.n_total, 'image')} of {run.name}"
        for run in runs
        if run.summary.n_scored < run.summary.n_total
    ]
    if failed:
        amounts = wording.join_with_and(failed)
        notes.append(f"{amounts} have no score. They are left out, not counted as 0.")
    notes += [f"{run.name}: {note}." for run in runs for note in run.summary.notes]
    notes += [rewriting_note(run) for run in runs if run.summary.rewriting]
    limits = dict.fromkeys(limit for run in runs for limit in run.summary.ocr_limits)
    notes += [f"{limit[:1].upper()}{limit[1:]}." for limit in limits]
    unofficial: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for run in runs:
        if run.summary.why_not_official:
            unofficial.setdefault((run.summary.family, tuple(run.summary.why_not_official)), []).append(run.name)
    notes += [
        f"The scores of {wording.join_with_and(names)} are not official ({family}): {'; '.join(reasons)}."
        for (family, reasons), names in unofficial.items()
    ]
    if len(_clip_models(runs)) > 1:
        notes.append("CLIP alignment was measured by different models, or not for every run; it is not compared.")
    notes += [f"The images were {reason}; part of the difference may come from that." for reason in unequal(runs)]
    return notes


def rewriting_note(run: EvalRun) -> str:
    """Say how many prompts of a run were rewritten, and why others were not."""
    about = run.summary.rewriting
    note = f"{about['rewritten']} of {wording.count(about['prompts'], 'prompt')} of {run.name} were rewritten"
    if about["kept"]:
        name, why = next(iter(about["kept"].items()))
        others = len(about["kept"]) - 1
        stayed = f"{others + 1} stayed as they were, the first of them is" if others else "one stayed as it was,"
        note += f"; {stayed} {name} ({why})"
    return f"{note}. All scores are those of the original prompts and their texts."


def unequal(runs: Sequence[EvalRun]) -> list[str]:
    """Name what differs between the runs besides the model: OCR engine, suite, seeds, settings, rewriter."""
    settings = [run.manifest["settings"] for run in runs]
    values_by_reason = {
        "read by different OCR engines": [run.summary.ocr for run in runs if run.summary.ocr],
        "judged by different judges": [run.summary.judge for run in runs],
        "made from different versions of the suite": [one["suite_fingerprint"] for one in settings],
        "generated with different seeds": [str(run.seeds) for run in runs],
        "generated with different settings": [generation_settings({**one, "rewrite": None}) for one in settings],
        "generated from prompts that were not rewritten in the same way": [one.get("rewrite") for one in settings],
    }
    return [reason for reason, values in values_by_reason.items() if len(set(values)) > 1]
