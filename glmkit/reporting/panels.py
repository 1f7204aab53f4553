"""Small multiples: one interval plot a split or language, drawn by matplotlib as SVG that lives inside the page.

Text stays text and colours are the page's own variables, so that a plot follows its fonts and its light or dark paper.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from glmkit.evaluation.stats import Estimate
from glmkit.reporting import words
from glmkit.reporting.plot import Axis

WIDTH, LINE, FOOT = 260, 36, 20  # points: a panel, one run in it, the ticks below
EDGE = 8  # points left and right of the axis, room for half a tick's number
LONGEST_NAME = 28  # letters
RUN_COLOURS = 6  # of page.css; the seventh run has the colour of the first
# Colours that nobody would choose stand for variables of page.css until the SVG is written.
INK, SOFT, GRID = "#010101", "#010102", "#010103"
RUNS = tuple(f"#0102{number:02x}" for number in range(1, RUN_COLOURS + 1))
VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--grid"} | {
    colour: f"--run-{number}" for number, colour in enumerate(RUNS, 1)
}


def panel(rows: Sequence[tuple[str, Estimate]], axis: Axis) -> Markup:
    """An SVG of one line a run: its name and score, and under them a dot with its interval."""
    height = LINE * len(rows) + FOOT
    figure = Figure(figsize=(WIDTH / 72, height / 72))  # inches of 72 points
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    for tick in axis.ticks:
        at = place(tick, axis)
        axes.plot([at, at], [0, height - FOOT + 4], color=GRID, linewidth=1)
        axes.text(at, height - 4, f"{tick:g}", size=10, color=SOFT, ha="center")
    for index, (run, estimate) in enumerate(rows):
        draw_run(axes, run, estimate, axis, top=LINE * index, colour=RUNS[index % RUN_COLOURS])
    written = io.StringIO()
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the letters
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return for_the_page(written.getvalue())


def draw_run(axes: Axes, run: str, estimate: Estimate, axis: Axis, *, top: float, colour: str) -> None:
    """One run, in points: its text stands 13 below `top`, the middle of its interval 25 below."""
    name = run if len(run) <= LONGEST_NAME else f"{run[: LONGEST_NAME - 1]}…"
    axes.text(0, top + 13, words.visible(name), size=12, color=INK, parse_math=False)
    axes.text(WIDTH, top + 13, words.number(estimate.value), size=12, color=INK, ha="right", weight="bold")
    middle = top + 25
    if estimate.low is not None and estimate.high is not None:
        ends = [place(estimate.low, axis), place(estimate.high, axis)]
        axes.plot(ends, [middle, middle], color=colour, linewidth=3, alpha=0.55, solid_capstyle="round")
    if estimate.value is not None:
        axes.add_patch(Circle((place(estimate.value, axis), middle), 4.5, color=colour, linewidth=0, zorder=3))


def place(value: float, axis: Axis) -> float:
    """Points from the left edge of the panel."""
    return EDGE + (WIDTH - 2 * EDGE) * (value - axis.low) / (axis.high - axis.low)


def for_the_page(svg: str) -> Markup:
    """Only the drawing: no prolog, metadata, global styles, ids or fixed size; hidden, for a table has the numbers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<defs>.*?</defs>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[^"]*"| clip-path="[^"]*"| xmlns(:xlink)?="[^"]*"| version="[^"]*"', "", body)
    body = re.sub(r'<svg width="[^"]*" height="[^"]*"', '<svg class="panel" aria-hidden="true" focusable="false"', body)
    body = re.sub(r"(?<=font-family: )[^;\"]*", "inherit", body)
    body = re.sub(r"\s+", " ", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return Markup(body)
