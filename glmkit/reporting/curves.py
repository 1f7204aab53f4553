"""Scores with their intervals over an ordered axis, one curve per line of a table, as SVG that lives inside a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from glmkit.evaluation.stats import Estimate
from glmkit.reporting.axis import close_axis
from glmkit.reporting.panels import GRID, INK, POINTS_PER_INCH, RUN_COLOURS, RUNS, SOFT, inline_svg

HEIGHT, COLUMN_WIDTH, LEFT, BOTTOM, TOP = 240, 96, 44, 26, 10  # points
MIN_WIDTH = 320
OFFSET = 7  # points between the intervals of two curves at the same value


def curves(
    columns: Sequence[str],
    lines: Sequence[tuple[str, Sequence[Estimate | None]]],
    marked: Sequence[Estimate] = (),
) -> Markup:
    """Return an SVG of one curve per line, which may have gaps; the very estimates `marked` have a ring around the dot.

    Numbers are in points; the text is that of the page.
    """
    found = [one for _, estimates in lines for one in estimates if one is not None and one.value is not None]
    axis = close_axis(found)
    width = max(MIN_WIDTH, LEFT + COLUMN_WIDTH * len(columns))
    figure = Figure(figsize=(width / POINTS_PER_INCH, HEIGHT / POINTS_PER_INCH))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(HEIGHT, 0))
    axes.set_axis_off()

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * axis.fraction(value)

    for tick in axis.ticks:
        axes.plot([LEFT, width], [y(tick), y(tick)], color=GRID, linewidth=1)
        axes.text(LEFT - 8, y(tick) + 4, f"{tick:g}", size=11, color=SOFT, ha="right")
    step = (width - LEFT) / len(columns)
    centres = [LEFT + step * (number + 0.5) for number in range(len(columns))]
    for centre, column in zip(centres, columns, strict=True):
        axes.text(centre, HEIGHT - 6, column, size=11, color=SOFT, ha="center", parse_math=False)
    for number, (_, estimates) in enumerate(lines):
        shift = OFFSET * (number - (len(lines) - 1) / 2)
        points = [
            (centre + shift, estimate)
            for centre, estimate in zip(centres, estimates, strict=True)
            if estimate is not None and estimate.value is not None
        ]
        axes.plot(
            [x for x, _ in points],
            [y(one.value or 0.0) for _, one in points],
            color=RUNS[number % RUN_COLOURS],
            linewidth=1.5,
        )
        for x, one in points:
            _plot_point(axes, x, one, y, RUNS[number % RUN_COLOURS], is_marked=any(one is other for other in marked))
    svg = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg(svg.getvalue())


def _plot_point(
    axes: Axes, x: float, estimate: Estimate, y: Callable[[float], float], colour: str, *, is_marked: bool
) -> None:
    """Plot a dot with its interval, and a ring around it where it is marked."""
    assert estimate.value is not None
    middle = y(estimate.value)
    if estimate.low is not None and estimate.high is not None:
        axes.plot([x, x], [y(estimate.low), y(estimate.high)], color=colour, linewidth=3, alpha=0.45)
    axes.add_patch(Circle((x, middle), 4.5, color=colour, linewidth=0, zorder=3))
    if is_marked:
        axes.add_patch(Circle((x, middle), 8, edgecolor=INK, facecolor="none", linewidth=1.5, zorder=3))
