"""The result of `glmkit bench price` as a table and as a figure: seconds against words, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation.stats import Estimate
from glmkit.files import atomic_path, called
from glmkit.records import shortcuts
from glmkit.reporting import wording

INK, SHORTCUT, FREE = "#22262c", "#1f6fb2", "#b0611a"
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
    """Draw the leading metric, minus exact, over the seconds of denoising; shortcuts and the free settings apart."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    metric = next(iter(result["settings"][0]["differences"]))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "glmkit"}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot(
            xlabel="seconds of denoising of one image", ylabel=f"{wording.label(metric)}, minus exact"
        )
        axes.axhline(0, color=INK, linewidth=0.8)
        for row in result["settings"]:
            _plot(axes, row, metric)
        axes.set_xlim(left=0)
        axes.margins(y=0.2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower(), metadata={"Date": None} if _is_svg(path) else {})


def _plot(axes: Any, row: Mapping[str, Any], metric: str) -> None:
    change = row["differences"][metric]
    estimate = Estimate(change["difference"], change["low"], change["high"], change["n"])
    if estimate.value is None:
        return
    seconds, exact = row["seconds"]["denoising"], row["setting"] == "exact"
    colour = INK if exact else SHORTCUT if shortcuts(row) else FREE
    if not exact and estimate.low is not None and estimate.high is not None:
        axes.plot([seconds] * 2, [estimate.low, estimate.high], color=colour, linewidth=2, alpha=0.55)
    axes.plot([seconds], [estimate.value], "o" if exact or shortcuts(row) else "s", color=colour)
    where: Sequence[float] = (6, 6)
    axes.annotate(row["setting"], (seconds, estimate.value), where, textcoords="offset points", size=8, color=colour)


def _is_svg(path: Path) -> bool:
    return path.suffix.lower() == ".svg"
