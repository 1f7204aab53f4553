"""The page of a sweep: which combination is best, which ones may be as good, and one prompt's images by all of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from glmkit import __version__
from glmkit.errors import UserError, unknown
from glmkit.evaluation import stats
from glmkit.evaluation.stats import Estimate, image_value
from glmkit.files import atomic_path, shareable_path, write_json
from glmkit.records import SWEEP, Combination, read_records
from glmkit.reporting import wording
from glmkit.reporting.build import GENERATOR
from glmkit.reporting.compare import comparable_metrics, comparison_notes
from glmkit.reporting.curves import curves
from glmkit.reporting.image_store import SMALL, ImageStore
from glmkit.reporting.load import EvalRun, load_runs
from glmkit.reporting.panels import RUN_COLOURS
from glmkit.reporting.templates import template_environment
from glmkit.reporting.thumbnails import Thumbnail

PAGE, RESULT, RECOMMENDED = "index.html", "result.json", "recommended.txt"
BEST, STRONGEST = PREFERRED = ("best", "strongest")
AXES = {"weight": "weight of the adapter", "steps": "steps of training", "guidance": "guidance"}


@dataclass(frozen=True)
class Arm:
    """One combination: its score, and `difference` from the best one, minus the best, None for itself."""

    combination: Combination
    run: EvalRun
    estimate: Estimate
    difference: Estimate | None
    resolved: bool


@dataclass(frozen=True)
class SweepResult:
    """The combinations of a sweep, compared by one metric: `arms` in the order of the sweep, among them the `best` one.

    `recommended` is the best one, or, where strength is preferred, that of the largest weight, and then of most steps,
    whose difference from the best is not resolved.
    """

    metric: str
    direction: str
    arms: tuple[Arm, ...]
    best: Arm
    recommended: Arm
    notes: tuple[str, ...]

    @cached_property
    def unresolved(self) -> list[Arm]:
        """Return the combinations that may be as good as the best one, best first."""
        return [arm for arm in self._others if not arm.resolved]

    @property
    def runner_up(self) -> Arm | None:
        """Return the next best combination, of those that may be as good if there are any."""
        return next(iter(self.unresolved or self._others), None)

    @property
    def _others(self) -> list[Arm]:
        sign = -1 if self.direction == "higher" else 1
        others = [arm for arm in self.arms if arm is not self.best and arm.difference is not None]
        return sorted(others, key=lambda arm: sign * (arm.estimate.value or 0.0))

    @property
    def sentence(self) -> str:
        """Return the recommendation with its reason, and the combination that may be as good."""
        name = wording.label_in_sentence(self.metric)
        best = f"{wording.number(self.best.estimate.value)} {wording.evidence(self.best.estimate)}"
        amount = wording.count(len(self.arms), "combination")
        if self.recommended is not self.best:
            return self._sentence_of_strongest(f"the best {name} of {amount}, {best}")
        text = f"{self.best.combination.name} is recommended: the best {name} of {amount}, {best}"
        if (other := self.runner_up) is None or other.difference is None:
            return f"{text}."
        size = (
            f"{wording.number(other.difference.value, signed=True)} {wording.evidence(other.difference, signed=True)}"
        )
        if other.resolved:
            name = other.combination.name
            return f"{text}. All others are worse by a resolved difference, the next one is {name}, {size}."
        more = len(self.unresolved) - 1
        rest = f", nor {'is that' if more == 1 else 'are those'} of {wording.count(more, 'other')}" if more else ""
        return (
            f"{text}. The next one, {other.combination.name}, may be as good: "
            f"its difference of {size} is not resolved{rest}."
        )

    def _sentence_of_strongest(self, best: str) -> str:
        change = self.recommended.difference
        assert change is not None
        size = f"{wording.number(change.value, signed=True)} {wording.evidence(change, signed=True)}"
        return (
            f"{self.recommended.combination.name} is recommended: the strongest that may be as good as "
            f"{self.best.combination.name}, which has {best}. Its difference from that is not resolved, {size}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of the page as JSON values."""
        return {
            "metric": self.metric,
            "direction": self.direction,
            "recommended": {**self.recommended.combination.to_dict(), "sentence": self.sentence},
            "best": self.best.combination.to_dict(),
            "runner_up": self.runner_up and self.runner_up.combination.to_dict(),
            "combinations": [
                {
                    **arm.combination.to_dict(),
                    "score": arm.estimate._asdict(),
                    "minus_best": arm.difference and arm.difference._asdict(),
                    "resolved": arm.resolved,
                }
                for arm in self.arms
            ],
        }


@dataclass(frozen=True)
class Panel:
    """A table of combinations: `columns` along one axis, and `lines` (heading, the combination in each column)."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Arm | None, ...]], ...]


def write_sweep(folder: Path, metric: str | None = None, prefer: str = BEST) -> tuple[Path, SweepResult]:
    """Compare the combinations of the sweep in `folder` by `metric`, by the first of its suite where it is None.

    `prefer` is one of PREFERRED: the best score, or the strongest combination that may be as good.

    Writes index.html, result.json, and recommended.txt with the options of `glmkit eval` and `generate`; returns the
    page and the result. UserError when nothing was scored by the metric.
    """
    combinations = read_records(folder / SWEEP, Combination)
    result = compare_combinations(folder, combinations, metric, prefer)
    best = result.recommended.combination
    options = [word for adapter in best.adapters for word in ("--adapter", adapter)]
    write_json(folder / RESULT, result.to_dict())
    for name, text in (
        (RECOMMENDED, shlex.join([*options, "--guidance", f"{best.guidance:g}"]) + "\n"),
        (PAGE, render_sweep(result, folder.resolve().name)),
    ):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return folder / PAGE, result


def compare_combinations(
    folder: Path, combinations: Sequence[Combination], metric: str | None, prefer: str = BEST
) -> SweepResult:
    """Pool the metric of every combination, and pair each with the best; of equal ones the first is the best."""
    runs = load_runs([folder / one.folder for one in combinations])
    metrics = comparable_metrics(runs)
    metric = metrics[0] if metric is None else metric
    if metric not in metrics:
        raise unknown("metric", metric, metrics)
    direction = runs[0].summary.metrics[metric]["direction"]
    sign = 1 if direction == "higher" else -1
    estimates = [stats.estimate(run.scores, metric) for run in runs]
    scored = {number: sign * one.value for number, one in enumerate(estimates) if one.value is not None}
    if not scored:
        raise UserError("no image of the sweep has a score", fix="`error` in the scores.jsonl of its runs says why")
    top = max(scored, key=lambda number: scored[number])
    arms = []
    for number, (one, run, estimate) in enumerate(zip(combinations, runs, estimates, strict=True)):
        change = None
        if number != top and number in scored:
            change = Estimate(*stats.paired_difference(runs[top].scores, run.scores, metric))
        outcome = wording.difference("", "", change, sign > 0).outcome if change else "unresolved"
        arms.append(Arm(one, run, estimate, change, outcome != "unresolved"))
    notes = comparison_notes(runs, set.intersection(*(run.prompts for run in runs)))
    if 1 < estimates[top].n < stats.MIN_PROMPTS:
        notes.append(f"With fewer than {stats.MIN_PROMPTS} prompts the intervals are too short.")
    recommended = arms[top]
    if prefer == STRONGEST:
        as_good = [arms[top], *(arm for arm in arms if arm.difference is not None and not arm.resolved)]
        recommended = max(as_good, key=lambda arm: (arm.combination.weight, arm.combination.steps or 0))
    return SweepResult(metric, direction, tuple(arms), arms[top], recommended, tuple(notes))


def render_sweep(result: SweepResult, name: str) -> str:
    """Return the HTML of the page, one file that needs no other."""
    prompt_id, images = example(result)
    panels = list(grid(result))
    return (
        template_environment()
        .get_template("sweep.html")
        .render(
            generator=Markup(GENERATOR),
            name=name,
            suite=result.best.run.summary.suite,
            result=result,
            adapters=[shlex.quote(shareable_path(adapter)) for adapter in result.recommended.combination.adapters],
            panels=panels,
            shares=shares(result),
            plots=[plot(panel, result.recommended) for panel in panels],
            run_colours=RUN_COLOURS,
            metrics=comparable_metrics([arm.run for arm in result.arms]),
            prompt=next(image for image in result.best.run.images if image.prompt_id == prompt_id),
            images=images,
            version=__version__,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def plot(panel: Panel, best: Arm) -> Markup:
    """Return the curves of one table."""
    lines = [(line, [None if arm is None else arm.estimate for arm in arms]) for line, arms in panel.lines]
    return curves(panel.columns, lines, [best.estimate])


def axis_values(result: SweepResult) -> dict[str, list[Any]]:
    """Return the values of each axis in ascending order; the model without the adapter has weight 0 and no steps."""
    combinations = [arm.combination for arm in result.arms]
    trained = [one for one in combinations if one.weight]
    return {
        "weight": sorted({one.weight for one in combinations}),
        "steps": sorted({one.steps for one in trained}, key=lambda steps: steps or 0) or [None],
        "guidance": sorted({one.guidance for one in combinations}),
    }


def grid(result: SweepResult) -> Iterator[Panel]:
    """Arrange the combinations: the axis with most values along the columns, the next along the lines."""
    values = axis_values(result)
    columns, lines, panels = sorted(AXES, key=lambda axis: -len(values[axis]))
    arms = {
        (one.combination.weight, one.combination.weight and one.combination.steps, one.combination.guidance): one
        for one in result.arms
    }

    def arm(**at: Any) -> Arm | None:
        return arms.get((at["weight"], at["weight"] and at["steps"], at["guidance"]))

    def heading(axis: str, value: Any) -> str:
        return "the adapter" if value is None else f"{axis} {value:g}"

    for panel in values[panels]:
        yield Panel(
            title=heading(panels, panel) if len(values[panels]) > 1 else "",
            columns=tuple(heading(columns, value) for value in values[columns]),
            lines=tuple(
                (
                    heading(lines, line) if len(values[lines]) > 1 else "",
                    tuple(arm(**{columns: value, lines: line, panels: panel}) for value in values[columns]),
                )
                for line in values[lines]
            ),
        )


def shares(result: SweepResult) -> dict[str, float]:
    """Return where each score stands between the lowest (0) and the highest (1), by the name of the combination."""
    values = {arm.combination.name: arm.estimate.value for arm in result.arms if arm.estimate.value is not None}
    low, high = min(values.values()), max(values.values())
    return {name: (value - low) / (high - low) if high > low else 1.0 for name, value in values.items()}


def example(result: SweepResult) -> tuple[str, dict[str, Thumbnail]]:
    """Choose the prompt whose first image varies most in score, and embed its images by the name of the combination."""
    firsts: dict[str, list[tuple[Arm, Any, Any]]] = {}
    for arm in result.arms:
        scores = {score.id: score for score in arm.run.scores}
        seeds = min(image.seed for image in arm.run.images)
        for image in arm.run.images:
            if image.seed == seeds:
                firsts.setdefault(image.prompt_id, []).append((arm, image, scores[image.id]))

    def spread(prompt_id: str) -> float:
        values = [value for *_, score in firsts[prompt_id] if (value := image_value(score, result.metric)) is not None]
        return max(values) - min(values) if values else -1.0

    chosen = max(firsts, key=spread)
    images = {}
    for arm, image, _ in firsts[chosen]:
        if image.file is not None:
            images[arm.combination.name] = ImageStore(SMALL).open(arm.run.folder / image.file)[1]
    return chosen, images
