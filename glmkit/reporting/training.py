"""The report of one fine-tuning run: what it learnt, what its samples look like, and what it did to images.

Everything is read from the run folder: results and logs of the stages, sample sheets, and the evaluation runs before
and after, where there are any.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from glmkit import __version__
from glmkit.evaluation.metrics.content import colour_entropy, edge_density
from glmkit.evaluation.stats import as_text
from glmkit.files import atomic_path, read_json, read_jsonl
from glmkit.reporting.images import QUALITY, Thumbnail, data_uri

HERE = Path(__file__).parent
PAGE = "report.html"
WIDTH, HEIGHT = 640, 180  # of a plot, in pixels of its own
LARGEST_SHEET = 1280  # pixels
MOST_POINTS = 400
EMPTIER = 0.7  # a guard below this share of what it was is pointed at
GUARDS = {"edge density": edge_density, "colour entropy (bits)": colour_entropy}


@dataclass(frozen=True)
class Curve:
    """One line of a plot: `points` are x,y of an SVG polyline; `first` and `last` its values."""

    name: str
    points: str
    first: float
    last: float


@dataclass(frozen=True)
class Sheet:
    """The samples of one step, side by side."""

    step: int
    image: Thumbnail


@dataclass(frozen=True)
class Change:
    """A value before and after training; `warning` where it says that images became emptier."""

    name: str
    before: str
    after: str
    warning: bool = False


@dataclass(frozen=True)
class StageReport:
    """`facts` are name and value; `losses` the validation losses, each part apart."""

    name: str
    facts: tuple[tuple[str, str], ...]
    losses: tuple[Change, ...]
    low: float
    high: float
    steps: int
    train: Curve | None
    validation: Curve | None
    sheets: tuple[Sheet, ...]
    content: tuple[Change, ...]


def write_training_report(run: Path) -> Path:
    """Write RUN/report.html, one file that needs no other; returns its path."""
    manifest = read_json(run / "manifest.json")
    stages = [stage_report(run, path.name.removesuffix(".log.jsonl")) for path in sorted(run.glob("*.log.jsonl"))]
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.get_template("training.html").render(
        name=run.name,
        stages=stages,
        proof=proof(run),
        recipe=(run / "recipe.yaml").read_text(encoding="utf-8"),
        environment=manifest["environment"],
        resumed=len(manifest["resumed"]),
        version=__version__,
        width=WIDTH,
        height=HEIGHT,
    )
    with atomic_path(run / PAGE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return run / PAGE


def stage_report(run: Path, name: str) -> StageReport:
    """What the log, the result (absent while a stage is not done) and the samples of one stage say."""
    rows = read_jsonl(run / f"{name}.log.jsonl", partial=True)
    train = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    tested = [(row["step"], row["validation"]) for row in rows if "validation" in row]
    validation = [(step, losses["loss"]) for step, losses in tested]
    values = [value for _, value in train + validation]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    steps = max([1, *(step for step, _ in train + validation)])
    sheets = _sheets(run, name)
    return StageReport(
        name=name,
        facts=_facts(read_json(run / f"{name}.json")) if (run / f"{name}.json").exists() else (),
        losses=_losses(tested),
        low=low,
        high=high,
        steps=steps,
        train=_curve("training", train, low, high, steps),
        validation=_curve("validation", validation, low, high, steps),
        sheets=tuple(Sheet(step, _embedded(path)) for step, path in sheets),
        content=guards([sheets[0][1]], [sheets[-1][1]]) if len(sheets) > 1 else (),
    )


def _facts(result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    peak = result["peak_bytes"]
    memory = "not measured on a CPU" if peak is None else f"{peak / 2**30:.1f} GiB"
    return (("steps", f"{result['steps']}"), ("time", f"{result['seconds']:.0f} s"), ("peak memory", memory))


def _losses(tested: Sequence[tuple[int, Mapping[str, float]]]) -> tuple[Change, ...]:
    if not tested:
        return ()
    (_, first), (_, last) = tested[0], tested[-1]
    return tuple(Change(name, f"{value:.4f}", f"{last[name]:.4f}") for name, value in first.items() if name in last)


def _sheets(run: Path, stage: str) -> list[tuple[int, Path]]:
    named = re.compile(rf"{re.escape(stage)}_(\d+)\.png")
    paths = sorted((run / "samples").glob(f"{stage}_*.png"))
    return [(int(match[1]), path) for path in paths if (match := named.fullmatch(path.name))]


def _embedded(path: Path) -> Thumbnail:
    """A whole sheet, which is too wide for a thumbnail."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((LARGEST_SHEET, LARGEST_SHEET), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=4)
    return Thumbnail(data_uri(buffer.getvalue(), "webp"), small.height, small.width)


def _curve(name: str, points: Sequence[tuple[int, float]], low: float, high: float, steps: int) -> Curve | None:
    """A polyline over 0 to `steps` and `low` to `high`, thinned where it has more points than a screen."""
    if len(points) < 2:
        return None
    stride, span = -(-len(points) // MOST_POINTS), (high - low) or 1.0
    shown = [points[index] for index in sorted({*range(0, len(points), stride), len(points) - 1})]
    places = (f"{WIDTH * step / steps:.1f},{HEIGHT * (high - value) / span:.1f}" for step, value in shown)
    return Curve(name, " ".join(places), points[0][1], points[-1][1])


def guards(before: Sequence[Path], after: Sequence[Path]) -> tuple[Change, ...]:
    """The means of every content guard over images drawn before and after training."""
    changes = []
    for name, measure in GUARDS.items():
        old, new = (float(np.mean([measure(_pixels(path)) for path in paths])) for paths in (before, after))
        changes.append(Change(name, f"{old:.4f}", f"{new:.4f}", new < EMPTIER * old))
    return tuple(changes)


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def proof(run: Path) -> tuple[Change, ...]:
    """Scores with their intervals before and after, CLIP where it was asked for, and the guards over all images."""
    folders = [run / "proof" / when for when in ("before", "after")]
    if not all((folder / "summary.json").exists() for folder in folders):
        return ()
    before, after = (read_json(folder / "summary.json") for folder in folders)
    changes = [
        Change(name, as_text(value), as_text(after["scores"][name]))
        for name, value in before["scores"].items()
        if name in after["scores"]
    ]
    return (*changes, *guards(*(sorted((folder / "images").glob("*.png")) for folder in folders)))
