"""Scores over time: every evaluation in a folder, by date, model and version, with the changes that are resolved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from glmkit import __version__
from glmkit.errors import UserError
from glmkit.evaluation import stats
from glmkit.evaluation.stats import Estimate
from glmkit.files import atomic_files, atomic_path, shareable_path, write_json
from glmkit.reporting import wording
from glmkit.reporting.build import GENERATOR, check_page
from glmkit.reporting.compare import comparable_metrics, unequal
from glmkit.reporting.curves import curves
from glmkit.reporting.load import EvalRun, load_run
from glmkit.reporting.panels import RUN_COLOURS
from glmkit.reporting.templates import template_environment
from glmkit.reporting.wording import Difference


@dataclass(frozen=True)
class Point:
    """One run of a series; `changes` are those from the run of the same model before it, by metric.

    `other` says what differs between the two besides model and date.
    """

    run: EvalRun
    scores: dict[str, Estimate]
    changes: dict[str, Difference]
    other: tuple[str, ...]

    @property
    def date(self) -> str:
        """Return the day on which it was started."""
        return str(self.run.manifest["started"])[:10]

    @property
    def version(self) -> str:
        """Return the version of glmkit, and the revision where it ran from a checkout."""
        environment = self.run.manifest["environment"]
        git = environment["git"]
        revision = f", {git['revision'][:12]}{' changed' * git['dirty']}" if git else ""
        return f"{environment['glmkit']}{revision}"

    @property
    def adapters(self) -> tuple[str, ...]:
        """Return the adapters without folders that only this machine has."""
        return tuple(map(shareable_path, self.run.summary.adapters))


@dataclass(frozen=True)
class Series:
    """The runs of one suite and split, oldest first."""

    suite: str
    split: str | None
    metrics: dict[str, str]
    points: tuple[Point, ...]

    @property
    def title(self) -> str:
        """Return the suite and the split."""
        return self.suite + (f", split {self.split}" if self.split else "")

    @property
    def metric(self) -> str:
        """Return the metric that leads."""
        return next(iter(self.metrics))

    @property
    def sentence(self) -> str:
        """Tell how many changes are resolved, and the latest of them."""
        name = wording.label_in_sentence(self.metric)
        changes = [point.changes[self.metric] for point in self.points if self.metric in point.changes]
        resolved = [change for change in changes if change.outcome != "unresolved"]
        if not changes:
            return f"{wording.count(len(self.points), 'run')}, none with one of the same model before it."
        amount = f"{len(resolved)} of {wording.count(len(changes), 'change')} in {name} resolved"
        return f"{amount}; the latest: {wording.difference_sentence(resolved[-1])}." if resolved else f"{amount}."


def write_history(folders: Sequence[Path], out: Path) -> tuple[Path, ...]:
    """Write a page of all finished evaluations in `folders`, at any depth, and its data as JSON beside it.

    UserError when there are none. What cannot be read is left out and named on the page.
    """
    files = check_page(out, ".json")
    runs, left_out = find_runs(folders)
    if not runs:
        raise UserError(
            f"no finished evaluation in {', '.join(map(str, folders))}",
            found=left_out[0] if left_out else None,
            fix="a folder that holds run folders of glmkit eval",
        )
    every = list(series(runs))
    html = (
        template_environment()
        .get_template("history.html")
        .render(
            generator=Markup(GENERATOR),
            every=every,
            plots=[plot(one) for one in every],
            left_out=left_out,
            run_colours=RUN_COLOURS,
            difference_sentence=wording.difference_sentence,
            version=__version__,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    with atomic_files(out.parent) as folder:
        write_json(folder / files[1].name, {"history": [_as_json(one) for one in every], "left_out": left_out})
        with atomic_path(folder / out.name) as temporary:
            temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    return files


def find_runs(folders: Sequence[Path]) -> tuple[list[EvalRun], list[str]]:
    """Read every finished evaluation in folders, and say why some are left out. Runs of other kinds are passed over."""
    runs: list[EvalRun] = []
    left_out: list[str] = []
    seen: set[str] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"folder {folder} does not exist", fix="--history FOLDER that holds run folders")
        for path in sorted(folder.rglob("summary.json")):
            real = os.path.realpath(path.parent)
            if real in seen or not (path.parent / "manifest.json").exists():
                continue
            seen.add(real)
            try:
                runs.append(load_run(path.parent))
            except UserError as error:
                left_out.append(error.what)
    return runs, left_out


def series(runs: Sequence[EvalRun]) -> Iterator[Series]:
    """Group runs by suite and split, oldest first, and pair each with the one of the same model before it."""
    groups: dict[tuple[str, str | None], list[EvalRun]] = {}
    for run in sorted(runs, key=lambda run: (datetime.fromisoformat(run.manifest["started"]), str(run.folder))):
        groups.setdefault((run.summary.suite, run.manifest["settings"].get("split")), []).append(run)
    for (suite, split), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        latest: dict[str, EvalRun] = {}
        points = []
        for run in group:
            points.append(_point(run, latest.get(run.summary.model)))
            latest[run.summary.model] = run
        metrics = {name: about["direction"] for run in reversed(group) for name, about in run.summary.metrics.items()}
        yield Series(suite, split, metrics, tuple(points))


def _point(run: EvalRun, before: EvalRun | None) -> Point:
    scores = {
        name: Estimate(one["value"], one["low"], one["high"], run.summary.n_prompts)
        for name, one in run.summary.scores.items()
    }
    if before is None or not before.prompts & run.prompts:
        return Point(run, scores, {}, ())
    changes = {}
    for name in comparable_metrics([before, run]):
        estimate = Estimate(*stats.paired_difference(before.scores, run.scores, name))
        higher = run.summary.metrics[name]["direction"] == "higher"
        changes[name] = wording.difference(before.name, run.name, estimate, higher)
    return Point(run, scores, changes, tuple(unequal([before, run])))


def plot(one: Series) -> Markup:
    """Return the curve of the leading metric of each model over its runs; resolved changes have a ring."""
    models = dict.fromkeys(point.run.summary.model for point in one.points)
    lines = [
        (model, [point.scores.get(one.metric) if point.run.summary.model == model else None for point in one.points])
        for model in models
    ]
    marked = [point.scores[one.metric] for point in one.points if _is_resolved(point, one.metric)]
    return curves([point.date for point in one.points], lines, marked)


def _is_resolved(point: Point, metric: str) -> bool:
    return metric in point.changes and point.changes[metric].outcome != "unresolved"


def _as_json(one: Series) -> dict[str, Any]:
    return {
        "suite": one.suite,
        "split": one.split,
        "metrics": one.metrics,
        "runs": [
            {
                "run": point.run.name,
                "started": point.run.manifest["started"],
                "model": shareable_path(point.run.summary.model),
                "adapters": point.adapters,
                "version": point.version,
                "scores": {name: estimate._asdict() for name, estimate in point.scores.items()},
                "changes": {
                    name: {**change.estimate._asdict(), "baseline": change.baseline, "outcome": change.outcome}
                    for name, change in point.changes.items()
                },
                "also_different": point.other,
            }
            for point in one.points
        ],
    }
