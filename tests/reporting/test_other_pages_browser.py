"""The pages of a history and of a sweep in a real browser: faults of accessibility, widths, and the size of letters."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from plain_runs import write_run

from glmkit.files import write_json
from glmkit.records import SWEEP, Combination
from glmkit.reporting.history import write_history
from glmkit.reporting.sweep import write_sweep

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright", reason="no Playwright: pip install 'glmkit[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium")
HALF = [(1.0, 1.0)] * 20 + [(0.0, 1.0)] * 20


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series of the same metric; their runs are of a checkout."""
    folder = tmp_path_factory.mktemp("history")
    for number, split in enumerate((None, None, "signs", "signs")):
        started = f"2026-03-0{number + 1}T10:00:00+00:00"
        write_run(folder / f"run{number}", HALF, name=f"run {number}", started=started, settings={"split": split})
    return write_history([folder], folder / "history.html")[0]


@pytest.fixture(scope="module")
def one_line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(tmp_path_factory.mktemp("sweep"), guidances=(1.0,))


@pytest.fixture(scope="module")
def three_lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(tmp_path_factory.mktemp("sweep"), guidances=(0.5, 1.0, 1.5))


def sweep(folder: Path, guidances: tuple[float, ...]) -> Path:
    combinations = [Combination(6, weight, guidance, ("run",)) for weight in (0.5, 1) for guidance in guidances]
    for one in combinations:
        write_run(folder / one.folder, HALF, name=one.name, images=True)
    write_json(folder / SWEEP, [one.to_dict() for one in combinations])
    return write_sweep(folder)[0]


@pytest.mark.parametrize("which", ["history", "one_line", "three_lines"])
def test_no_fault_of_accessibility_and_letters_as_large_as_others(
    tab: Page, which: str, request: pytest.FixtureRequest
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core: pip install 'glmkit[dev]'")
    page = request.getfixturevalue(which)
    tab.set_viewport_size({"width": 1280, "height": 900})
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.goto(page.as_uri())
        violations = axe.Axe().run(tab).response["violations"]
        assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in violations] == []
    heights = tab.evaluate(
        "Array.from(document.querySelectorAll('.curve text'), one => one.getBoundingClientRect().height)"
    )
    assert heights
    assert max(heights) <= 20  # those of the page have 16 pixels, and lines of 25
    for width in (640, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_a_revision_stays_in_one_line(tab: Page, history: Path) -> None:
    tab.set_viewport_size({"width": 390, "height": 900})
    tab.goto(history.as_uri())
    words = """Array.from(document.querySelectorAll('.runs td:nth-of-type(2)'), cell => {
      const text = cell.firstChild, range = document.createRange(), at = text.data.indexOf(', ') + 2;
      range.setStart(text, at); range.setEnd(text, at + 12);
      return [range.toString(), range.getClientRects().length];
    })"""
    assert tab.evaluate(words) == [["dad0708c0ffe", 1]] * 4
