"""Small multiples: one interval plot per split or language, made by matplotlib as SVG that lives inside the page.

Text stays text and colours are the page's own variables, so that a plot follows its fonts and its light or dark paper.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from glmkit.evaluation.stats import Estimate
from glmkit.reporting import wording
from glmkit.reporting.axis import Axis

POINTS_PER_INCH = 72
WIDTH, RUN_HEIGHT, TICKS_HEIGHT = 260, 36, 20  # points: a panel, one run in it, the ticks below
MARGIN = 8  # points left and right of the axis, enough for half a tick's number
MAX_NAME_LENGTH = 28  # letters
RUN_COLOURS = 6  # of page.css; the seventh run has the colour of the first
# Colours that no one would choose stand for variables of page.css until the SVG is written.
INK, SOFT, GRID = "#010101", "#010102", "#010103"
RUNS = tuple(f"#0102{number:02x}" for number in range(1, RUN_COLOURS + 1))
CSS_VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--grid"} | {
    colour: f"--run-{number}" for number, colour in enumerate(RUNS, 1)
}


def panel(estimates: Mapping[str, Estimate], axis: Axis) -> Markup:
    """Return an SVG with each run's name and score, and under them a dot with its interval."""
    height = RUN_HEIGHT * len(estimates) + TICKS_HEIGHT
    figure = Figure(figsize=(WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    for tick in axis.ticks:
        x = x_position(tick, axis)
        axes.plot([x, x], [0, height - TICKS_HEIGHT + 4], color=GRID, linewidth=1)
        axes.text(x, height - 4, f"{tick:g}", size=10, color=SOFT, ha="center")
    for index, (run, estimate) in enumerate(estimates.items()):
        plot_run(axes, run, estimate, axis, top=RUN_HEIGHT * index, colour=RUNS[index % RUN_COLOURS])
    svg = io.StringIO()
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the letters
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg(svg.getvalue())


def plot_run(axes: Axes, run: str, estimate: Estimate, axis: Axis, *, top: float, colour: str) -> None:
    """Plot one run, in points: its text stands 13 below `top`, the middle of its interval 25 below."""
    name = run if len(run) <= MAX_NAME_LENGTH else f"{run[: MAX_NAME_LENGTH - 1]}…"
    axes.text(0, top + 13, wording.show_control_characters(name), size=12, color=INK, parse_math=False)
    axes.text(WIDTH, top + 13, wording.number(estimate.value), size=12, color=INK, ha="right", weight="bold")
    middle = top + 25
    if estimate.low is not None and estimate.high is not None:
        ends = [x_position(estimate.low, axis), x_position(estimate.high, axis)]
        axes.plot(ends, [middle, middle], color=colour, linewidth=3, alpha=0.55, solid_capstyle="round")
    if estimate.value is not None:
        axes.add_patch(Circle((x_position(estimate.value, axis), middle), 4.5, color=colour, linewidth=0, zorder=3))


def x_position(value: float, axis: Axis) -> float:
    """Return the points from the left edge of the panel."""
    return MARGIN + (WIDTH - 2 * MARGIN) * axis.fraction(value)


def inline_svg(svg: str) -> Markup:
    """Strip prolog, metadata, global styles, ids and fixed size; hidden, for a table has the numbers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<defs>.*?</defs>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[^"]*"| clip-path="[^"]*"| xmlns(:xlink)?="[^"]*"| version="[^"]*"', "", body)
    body = re.sub(r'<svg width="[^"]*" height="[^"]*"', '<svg class="panel" aria-hidden="true" focusable="false"', body)
    body = re.sub(r"(?<=font-family: )[^;\"]*", "inherit", body)
    body = re.sub(r"\s+", " ", body)
    for colour, variable in CSS_VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return Markup(body)
