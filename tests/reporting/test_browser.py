"""The page in a real browser, by Playwright and the system's Chromium. Skipped where one of them is missing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from reporting import conftest
from reporting.conftest import MakeRun

from glmkit.records import Prompt
from glmkit.reporting import gallery
from glmkit.reporting.build import write_report
from glmkit.reporting.thumbnails import Thumbnail, data_uri

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]

pytest.importorskip("playwright", reason="no Playwright: pip install 'glmkit[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium")


@dataclass
class Tab:
    """One tab. `problems` collects what the page wrote to the console, what it threw, and what it tried to load."""

    page: Page
    problems: list[str]

    def open(self, path: Path, width: int, scheme: Scheme = "light") -> None:
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)
        self.page.goto(path.as_uri())

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Tab]:
    page = chromium.new_page()
    tab = Tab(page, [])
    page.on("console", lambda message: tab.problems.append(message.text))
    page.on("pageerror", lambda error: tab.problems.append(str(error)))
    page.on("request", lambda request: tab.problems.append(request.url) if request.url.startswith("http") else None)
    yield tab
    page.close()


@pytest.fixture
def page(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> Path:
    long = Prompt("long", "W" * 400, ("W" * 60,), "hard")
    before = [(prompt, [prompt.texts[0][1:]]) for prompt in prompts] + [(long, ["W" * 60])]
    after = [(prompt, prompt.texts) for prompt in prompts] + [(long, RuntimeError("x" * 300))]
    out = tmp_path / "report.html"
    write_report([make_run("before", before), make_run("after", after, adapters=["runs/a/adapter"])], out)
    return out


def visible_prompts(browser: Tab) -> list[str]:
    script = "Array.from(document.querySelectorAll('.prompt:not([hidden]) h3 bdi'), e => e.textContent)"
    return list(browser.run(script))


def choose(browser: Tab, name: str, value: str) -> None:
    field = browser.page.locator(f"#controls [name={name}]")
    field.fill(value) if name == "find" else field.select_option(value)


def test_order_and_filters(browser: Tab, page: Path) -> None:
    browser.open(page, 1280)
    suite_order = visible_prompts(browser)
    assert suite_order == ["p00", "p01", "p02", "p03", "p04", "p05", "long"]
    choose(browser, "sort", "worst")
    worst = visible_prompts(browser)
    assert worst[0] == "long"
    assert sorted(worst) == sorted(suite_order)
    assert worst != suite_order
    choose(browser, "split", "hard")
    assert visible_prompts(browser) == [name for name in worst if name in ("p04", "p05", "long")]
    choose(browser, "show", "error")
    assert visible_prompts(browser) == ["long"]
    assert browser.run("document.getElementById('match-count').textContent") == "1 of 7 prompts"
    choose(browser, "show", "all")
    choose(browser, "split", "")
    choose(browser, "find", "JAZZ")
    assert visible_prompts(browser) == ["p01"]
    assert browser.problems == []


def test_the_largest_difference_between_two_of_three_runs(
    browser: Tab, tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]
) -> None:
    """Run n reads all but prompt n: runs a and b differ on the first two prompts only."""
    runs = [
        make_run(name, [(prompt, ["?"] if index == wrong else prompt.texts) for index, prompt in enumerate(prompts)])
        for wrong, name in enumerate("abc")
    ]
    write_report(runs, tmp_path / "three.html")
    browser.open(tmp_path / "three.html", 390)
    for pair, first in (("0-1", {"p00", "p01"}), ("0-2", {"p00", "p02"}), ("1-2", {"p01", "p02"})):
        choose(browser, "sort", f"difference-{pair}")
        assert set(visible_prompts(browser)[:2]) == first
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.problems == []


def test_the_time_to_open_grows_no_faster_than_the_number_of_prompts(
    browser: Tab, tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 prompts of three runs, with thumbnails of 9 kB, beside 50: a ratio, since seconds depend on the machine."""
    content = data_uri(random.Random(0).randbytes(9000), "webp")
    monkeypatch.setattr(gallery, "thumbnail", lambda _: Thumbnail(content, 288, 288))
    monkeypatch.setattr(conftest, "render_poster", lambda *_: None)
    seconds: dict[int, list[float]] = {50: [], 500: []}
    for count in seconds:
        many = [Prompt(f"p{index}", "A sign that says “Fresh Bread”. " * 5, ("Fresh Bread",)) for index in range(count)]
        runs = [make_run(f"{name}{count}", [(one, ["Frsh Bread"]) for one in many]) for name in "abc"]
        write_report(runs, tmp_path / f"{count}.html")
    for _ in range(3):
        for count, times in seconds.items():
            browser.open(tmp_path / f"{count}.html", 1280)
            times.append(browser.run("performance.getEntriesByType('navigation')[0].loadEventStart"))
    assert len(visible_prompts(browser)) == 500
    assert min(seconds[500]) < 20 * min(seconds[50])


def test_widths_and_colours(browser: Tab, page: Path) -> None:
    backgrounds = set()
    views: list[tuple[int, Scheme]] = [(1280, "light"), (390, "light"), (390, "dark")]
    for width, scheme in views:
        browser.open(page, width, scheme)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)")
        backgrounds.add(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2
    assert browser.problems == []


def test_the_keyboard_reaches_links_details_and_controls(browser: Tab, page: Path) -> None:
    browser.open(page, 1280)
    reached: list[str] = []
    while "find" not in reached and len(reached) < 60:
        browser.page.keyboard.press("Tab")
        reached.append(browser.run("(e => e.name || e.className || e.tagName)(document.activeElement)"))
    assert reached[0] == "skip"
    assert "original" in reached
    assert "SUMMARY" in reached
    assert reached[-4:] == ["sort", "show", "split", "find"]
