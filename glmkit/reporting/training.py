"""The report of one fine-tuning run: its losses, its samples, and what it did to generated images.

Everything is read from the run folder: results and logs of the stages, grids of samples, and the evaluation runs before
and after, where there are any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glmkit import __version__
from glmkit.evaluation.metrics.content import colour_entropy, edge_density
from glmkit.evaluation.stats import as_text
from glmkit.files import atomic_path, read_json, shareable_path
from glmkit.inputs.images import read_image
from glmkit.reporting.templates import template_environment
from glmkit.reporting.thumbnails import Thumbnail, sample_grid
from glmkit.runs import read_log, read_manifest, read_result

PAGE = "report.html"
PLOT_WIDTH, PLOT_HEIGHT = 640, 180  # units of the SVG
PLACES = re.compile(
    r"^(\s*(?:- )?(?:model|output|train|validation|path|save): ['\"]?)(.+)$", re.MULTILINE
)  # of a recipe
MAX_POINTS = 400  # of a curve, as many as a screen shows
EMPTY_SHARE = 0.7  # of its value before training; a content metric below it is marked: images became emptier
CONTENT_METRICS = {"edge density": edge_density, "colour entropy (bits)": colour_entropy}

NOT_CURVES = ("step", "time", "loss", "reward")  # of a line of a log: the first plot shows the last two

Losses = Sequence[tuple[int, float]]  # (step, loss)


@dataclass(frozen=True)
class LossCurve:
    """One line of a plot: `points` are x,y of an SVG polyline, `last` is its last value."""

    points: str
    last: float


@dataclass(frozen=True)
class MetricCurve:
    """Hold what a stage with rewards logs beside them over its steps: from `low` to `high`, `first` to the last."""

    name: str
    first: float
    low: float
    high: float
    curve: LossCurve


@dataclass(frozen=True)
class SampleGrid:
    """The samples of one step, side by side."""

    step: int
    image: Thumbnail


@dataclass(frozen=True)
class BeforeAfter:
    """A value before and after training, as text; `emptier` where it says that images lost content."""

    name: str
    before: str
    after: str
    emptier: bool = False


@dataclass(frozen=True)
class StageReport:
    """One stage: `facts` are (name, value), `losses` the validation losses, each component apart.

    `low` and `high` are the range of both curves, `steps` the last step of either. `measure`: what they show, the loss
    or, where a stage learns from rewards, the reward; `metrics` are its other numbers.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    losses: tuple[BeforeAfter, ...]
    low: float
    high: float
    steps: int
    train_curve: LossCurve | None
    validation_curve: LossCurve | None
    samples: tuple[SampleGrid, ...]
    content: tuple[BeforeAfter, ...]
    measure: str = "loss"
    metrics: tuple[MetricCurve, ...] = ()


def write_training_report(run: Path) -> Path:
    """Write RUN/report.html, one file that needs no other; returns its path."""
    manifest = read_manifest(run)
    stages = [stage_report(run, path.name.removesuffix(".log.jsonl")) for path in sorted(run.glob("*.log.jsonl"))]
    html = (
        template_environment()
        .get_template("training.html")
        .render(
            name=run.name,
            stages=stages,
            evaluation=before_after(run),
            recipe=PLACES.sub(
                lambda match: match[1] + shareable_path(match[2]), (run / "recipe.yaml").read_text(encoding="utf-8")
            ),
            environment=manifest["environment"],
            resumed=len(manifest["resumed"]),
            version=__version__,
            width=PLOT_WIDTH,
            height=PLOT_HEIGHT,
        )
    )
    with atomic_path(run / PAGE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return run / PAGE


def stage_report(run: Path, stage: str) -> StageReport:
    """Read the log, the result (absent while a stage is not done) and the samples of one stage."""
    log = read_log(run / f"{stage}.log.jsonl")
    measure = "reward" if any("reward" in line for line in log) else "loss"
    train = [(line["step"], line[measure]) for line in log if measure in line]
    validation = [(line["step"], line["validation"]) for line in log if "validation" in line]
    validation_loss = [(step, losses[measure]) for step, losses in validation if measure in losses]
    values = [loss for _, loss in train + validation_loss]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    steps = max([1, *(step for step, _ in train + validation_loss)])
    result = run / f"{stage}.json"
    grids = sample_grids(run, stage)
    return StageReport(
        name=stage,
        facts=result_facts(read_result(result)) if result.exists() else (),
        losses=validation_losses(validation),
        low=low,
        high=high,
        steps=steps,
        train_curve=loss_curve(train, low, high, steps),
        validation_curve=loss_curve(validation_loss, low, high, steps),
        samples=tuple(SampleGrid(step, sample_grid(path)) for step, path in grids),
        content=content_metrics([grids[0][1]], [grids[-1][1]]) if len(grids) > 1 else (),
        measure=measure,
        metrics=metrics(log, steps) if measure == "reward" else (),
    )


def metrics(log: Sequence[Mapping[str, Any]], steps: int) -> tuple[MetricCurve, ...]:
    """Plot every other number that a stage with rewards logs: its parts, and what shows that it is gamed."""
    lines = [line for line in log if "loss" in line]
    found = []
    for name in dict.fromkeys(name for line in lines for name in line if name not in NOT_CURVES):
        points = [(line["step"], line[name]) for line in lines if name in line]
        low, high = (pick(value for _, value in points) for pick in (min, max))
        if curve := loss_curve(points, low, high, steps):
            found.append(MetricCurve(name, points[0][1], low, high, curve))
    return tuple(found)


def result_facts(result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return steps, time and peak memory of a finished stage."""
    peak = result["peak_bytes"]
    memory = "not measured on a CPU" if peak is None else f"{peak / 2**30:.1f} GiB"
    return (("steps", f"{result['steps']}"), ("time", f"{result['seconds']:.0f} s"), ("peak memory", memory))


def validation_losses(validation: Sequence[tuple[int, Mapping[str, float]]]) -> tuple[BeforeAfter, ...]:
    """Return the first and the last validation loss, the whole and its components."""
    if not validation:
        return ()
    (_, first), (_, last) = validation[0], validation[-1]
    return tuple(
        BeforeAfter(name, f"{value:.4f}", f"{last[name]:.4f}") for name, value in first.items() if name in last
    )


def sample_grids(run: Path, stage: str) -> list[tuple[int, Path]]:
    """Find `samples/<stage>_<step>.png`, in the order of the steps."""
    pattern = re.compile(rf"{re.escape(stage)}_(\d+)\.png")
    paths = sorted((run / "samples").glob(f"{stage}_*.png"))
    return [(int(match[1]), path) for path in paths if (match := pattern.fullmatch(path.name))]


def loss_curve(losses: Losses, low: float, high: float, steps: int) -> LossCurve | None:
    """Plot over 0 to `steps` and `low` to `high`, thinned where there are more points than a screen shows.

    Values that are all equal are a line in the middle.
    """
    if len(losses) < 2:
        return None
    stride = -(-len(losses) // MAX_POINTS)
    thinned = [losses[index] for index in sorted({*range(0, len(losses), stride), len(losses) - 1})]
    depths = [(step, (high - loss) / (high - low) if low < high else 0.5) for step, loss in thinned]
    points = (f"{PLOT_WIDTH * step / steps:.1f},{PLOT_HEIGHT * depth:.1f}" for step, depth in depths)
    return LossCurve(" ".join(points), losses[-1][1])


def content_metrics(before: Sequence[Path], after: Sequence[Path]) -> tuple[BeforeAfter, ...]:
    """Average every content metric over images that were generated before and after training."""
    changes = []
    for name, measure in CONTENT_METRICS.items():
        old, new = (float(np.mean([measure(_pixels(path)) for path in paths])) for paths in (before, after))
        changes.append(BeforeAfter(name, f"{old:.4f}", f"{new:.4f}", emptier=new < EMPTY_SHARE * old))
    return tuple(changes)


def _pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(read_image(path))


def before_after(run: Path) -> tuple[BeforeAfter, ...]:
    """Return scores with their intervals before and after, and the content metrics over all images."""
    folders = [run / "eval" / when for when in ("before", "after")]
    if not all((folder / "summary.json").exists() for folder in folders):
        return ()
    before, after = (read_json(folder / "summary.json") for folder in folders)
    scores = [
        BeforeAfter(name, as_text(value), as_text(after["scores"][name]))
        for name, value in before["scores"].items()
        if name in after["scores"]
    ]
    return (*scores, *content_metrics(*(sorted((folder / "images").glob("*.png")) for folder in folders)))
