"""The result of `glmkit bench price` as a table and as a figure: seconds against words, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation.stats import Estimate
from glmkit.files import called
from glmkit.reporting import wording
from glmkit.reporting.figures import INK, ROOM, bare, save_figure
from glmkit.shortcuts import shortcuts

SHORTCUT, FREE = "#1f6fb2", "#b0611a"
FORMATS = (".svg", ".png")
COLUMNS = ("word_accuracy", "ned", "attribute_accuracy")  # of the table; where a suite has none of them, all it has


def price_table(result: Mapping[str, Any]) -> str:
    """Return a Markdown table: for every setting its passes and seconds, and its differences from exact."""
    rows, measured = result["settings"], list(result["settings"][0]["differences"])
    metrics = [metric for metric in COLUMNS if metric in measured] or measured
    has_peak = rows[0]["peak_memory_gib"] is not None
    heads = ["setting", "passes", "denoising, s", "image, s", *["peak GPU memory, GiB"] * has_peak]
    heads += [f"{wording.label_in_sentence(metric)}, minus exact" for metric in metrics]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        seconds, peak = row["seconds"], row["peak_memory_gib"]
        cells = [f"`{row['setting']}`", str(row["passes"]), f"{seconds['denoising']:.2f}", f"{seconds['total']:.2f}"]
        cells += [] if peak is None else [f"{peak:.1f}"]
        lines.append([*cells, *(_difference(row, metric, exact=row is rows[0]) for metric in metrics)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _difference(row: Mapping[str, Any], metric: str, *, exact: bool) -> str:
    """Return a difference from exact with its interval; for exact itself, its score."""
    if exact:
        return wording.number(row["scores"][metric]["value"])
    change = row["differences"][metric]
    text = wording.number(change["difference"], signed=True)
    if change["low"] is None:
        return text
    return f"{text} [{wording.number(change['low'], signed=True)}, {wording.number(change['high'], signed=True)}]"


def check_figure(path: Path) -> None:
    """Raise UserError unless a figure can be written under this name."""
    if path.suffix.lower() not in FORMATS:
        fix = f"--figure {called(path, '.svg', 'price')}"
        raise UserError("--figure must be an SVG or PNG file", found=path, fix=fix)


def write_price_figure(result: Mapping[str, Any], path: Path) -> None:
    """Plot the leading metric, minus exact, over the seconds of denoising, and over the peak memory of a GPU.

    Shortcuts and the free settings have colours of their own.
    """
    from matplotlib.figure import Figure

    metric = next(iter(result["settings"][0]["differences"]))
    costs: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "seconds of denoising of one image": lambda row: row["seconds"]["denoising"],
        "peak GPU memory, GiB": lambda row: row["peak_memory_gib"],
    }
    measured = {name: cost for name, cost in costs.items() if cost(result["settings"][0]) is not None}
    figure = Figure(figsize=(6.4 * len(measured), 3.8), layout="constrained")
    for number, (name, cost) in enumerate(measured.items()):
        axes = figure.add_subplot(1, len(measured), number + 1, xlabel=name)
        axes.set_ylabel(f"{wording.label(metric)}, minus exact")
        axes.axhline(0, color=INK, linewidth=0.8)
        for row in result["settings"]:
            estimate, x = _estimate(row, metric), cost(row)
            if x is not None and estimate.value is not None:
                _plot(axes, row, x, estimate)
        axes.set_xlim(0, ROOM * max(cost(row) or 0.0 for row in result["settings"]))
        axes.margins(y=0.2)
        bare(axes)
    save_figure(figure, path)


def _estimate(row: Mapping[str, Any], metric: str) -> Estimate:
    change = row["differences"][metric]
    return Estimate(change["difference"], change["low"], change["high"], change["n"])


def _plot(axes: Any, row: Mapping[str, Any], x: float, estimate: Estimate) -> None:
    exact = row["setting"] == "exact"
    colour = INK if exact else SHORTCUT if shortcuts(row) else FREE
    if not exact and estimate.low is not None and estimate.high is not None:
        axes.plot([x] * 2, [estimate.low, estimate.high], color=colour, linewidth=2, alpha=0.55)
    axes.plot([x], [estimate.value], "o" if exact or shortcuts(row) else "s", color=colour)
    where: Sequence[float] = (6, 6)
    axes.annotate(row["setting"], (x, estimate.value), where, textcoords="offset points", size=8, color=colour)
