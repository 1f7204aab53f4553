"""Small multiples: the right position on the axis, the page's own colours, nothing but text from names."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from glmkit.evaluation.stats import Estimate
from glmkit.reporting.axis import Axis
from glmkit.reporting.panels import MARGIN, MAX_NAME_LENGTH, RUN_COLOURS, WIDTH, panel

AXIS = Axis(0.0, 1.0, (0.0, 0.5, 1.0))


def points(path: str) -> list[float]:
    """Every x of an SVG path."""
    return [float(x) for x, _ in re.findall(r"(-?[\d.]+) (-?[\d.]+)(?= |$)", path)]


def test_dots_and_bars_stand_where_the_axis_says() -> None:
    svg = ElementTree.fromstring(
        panel({"one": Estimate(0.5, 0.25, 0.75, 9), "two": Estimate(0.0, None, None, 1)}, AXIS)
    )
    inner = WIDTH - 2 * MARGIN
    paths = [(item.get("style") or "", item.get("d") or "") for item in svg.iter("path")]
    (bar,) = [d for style, d in paths if "stroke: var(--run-1)" in style and "fill: none" in style]
    assert points(bar) == pytest.approx([MARGIN + 0.25 * inner, MARGIN + 0.75 * inner])
    for number, value in ((1, 0.5), (2, 0.0)):
        (dot,) = [d for style, d in paths if f"fill: var(--run-{number})" in style]
        xs = points(dot)
        assert (min(xs) + max(xs)) / 2 == pytest.approx(MARGIN + value * inner, abs=0.01)
    assert not any("stroke: var(--run-2)" in style and "fill: none" in style for style, _ in paths)  # no interval


def test_the_page_decides_on_fonts_and_colours() -> None:
    svg = panel({f"run {index}": Estimate(0.5, 0.4, 0.6, 9) for index in range(RUN_COLOURS + 1)}, AXIS)
    assert not re.search(r"#[0-9a-f]{6}|DejaVu|<style|<metadata| id=|href|<\?xml", svg)
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", svg)) == {
        "--ink", "--soft", "--grid", *(f"--run-{number}" for number in range(1, RUN_COLOURS + 1))
    }  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_names_stay_text(caplog: pytest.LogCaptureFixture) -> None:
    names = ["$\\frac{1$ <b>&", "\u202egnp", "春" * 50]
    svg = ElementTree.fromstring(panel({name: Estimate(None, None, None, 0) for name in names}, AXIS))
    texts = [item.text for item in svg.iter("text")]
    assert {"$\\frac{1$ <b>&", "[U+202E]gnp", "–"} <= set(texts)
    assert any(text and text.startswith("春") and text.endswith("…") and len(text) == MAX_NAME_LENGTH for text in texts)
    assert not caplog.records
