"""What figures share: colours, axes, files, and which points no other one beats."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmkit.files import atomic_path

INK, SOFT = "#22262c", "#5c5953"
RUN_COLOURS = ("#1f5fa8", "#c2570c", "#2f7d4f", "#8a3d9e", "#8a6d00", "#b02a5b")  # as the light page
CREATOR = "glmkit report"
DPI = 200  # of a PNG
ROOM = 1.15  # times the largest value an axis reaches, for the name beside the point


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as the suffix of `path` says, .svg or .png: the same figure, the same bytes."""
    from matplotlib import rc_context

    suffix = path.suffix[1:].lower()
    metadata = {"Creator": CREATOR, "Date": None} if suffix == "svg" else {"Software": CREATOR}
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "glmkit"}),
        warnings.catch_warnings(),
        atomic_path(path) as temporary,
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(temporary, format=suffix, metadata=metadata, dpi=DPI)


def bare(axes: Any) -> None:
    """Take away the top and the right line around a plot."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def log_scale(axes: Any) -> None:
    """Make the vertical axis logarithmic, with values written out between powers of ten, since few plots span one."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points (cost, value) that none beats: cheaper and as good, or better and as cheap.

    They are in the order of their cost; of equal points the first one stays.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda one: (points[one][0], -points[one][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front
