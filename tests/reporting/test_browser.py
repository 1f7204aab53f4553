"""The page in a real browser, by Playwright and the system's Chromium. Skipped where one of them is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from reporting.conftest import MakeRun

from glmkit.records import Prompt
from glmkit.reporting import build
from glmkit.reporting.build import write_report

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


def wait_until(browser: Tab, script: str) -> None:
    for _ in range(500):
        if browser.run(script):
            return
        browser.page.wait_for_timeout(20)
    raise AssertionError(script)


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


def test_the_cards_of_many_prompts_appear_as_one_scrolls(
    browser: Tab, tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every order; a link from the top leads to its card, whether that is an element yet or not."""
    monkeypatch.setattr(build, "CARDS_AT_ONCE", 5)
    many = [Prompt(f"p{index:02}", "A sign that says “GO”.", ("GO",)) for index in range(90)]
    samples = [(one, ["GO"] if index < 88 else ["NO"]) for index, one in enumerate(many)]
    write_report([make_run("run", samples, side=32)], tmp_path / "many.html")
    browser.open(tmp_path / "many.html", 1280)
    assert visible_prompts(browser)[:5] == ["p00", "p01", "p02", "p03", "p04"]
    assert len(visible_prompts(browser)) < 90
    choose(browser, "sort", "worst")
    assert browser.run("document.getElementById('match-count').textContent") == "90 of 90 prompts"
    browser.page.locator(".highlight a", has_text="p88").click()
    assert browser.page.locator("#prompt-89").is_visible()
    browser.run("document.getElementById('gallery').scrollIntoView()")
    wait_until(browser, "scrollBy(0, 1000), document.querySelectorAll('.prompt').length === 90")
    assert sorted(visible_prompts(browser)) == [one.id for one in many]
    assert visible_prompts(browser)[:2] == ["p88", "p89"]
    assert browser.problems == []


def shown(browser: Tab) -> list[str]:
    """What the viewer says it shows, its prompt, and the share of the left image."""
    return [
        browser.page.locator("output[name=shown]").inner_text(),
        browser.page.locator("#viewer-title").inner_text(),
        browser.page.locator("#divider").input_value(),
    ]


def test_two_runs_at_the_same_place(browser: Tab, page: Path) -> None:
    browser.open(page, 1280)
    before, after = "nano, seed 0", "nano + a, seed 0"
    browser.page.locator("#prompt-2 .original").nth(1).click()
    assert shown(browser) == [after, "p01", "0"]
    press = browser.page.keyboard.press
    press("Space")
    assert shown(browser) == [before, "p01", "100"]
    press("ArrowLeft")
    assert shown(browser) == [f"{before} | {after}", "p01", "95"]
    boxes = browser.run(
        "Array.from(document.querySelectorAll('.side'), e => JSON.stringify(e.getBoundingClientRect()))"
    )
    assert boxes[0] == boxes[1]
    press("PageDown")
    assert shown(browser)[1] == "p02"
    press("PageUp")
    fitting = browser.run("document.querySelector('.canvas').offsetWidth")
    press("+")
    assert browser.run("document.querySelector('.canvas').offsetWidth") == pytest.approx(1.25 * fitting, abs=1)
    assert not browser.page.locator(".side .boxes").first.is_visible()
    press("b")
    assert browser.page.locator(".side .boxes").first.is_visible()
    press("Escape")
    assert not browser.page.locator("#viewer").is_visible()
    assert browser.page.locator("#prompt-1 .boxes").first.is_visible()
    assert browser.page.evaluate("document.activeElement.className") == "original"
    assert browser.problems == []


def test_the_viewer_shows_the_original_of_a_smaller_copy(
    browser: Tab, tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]
) -> None:
    """Where the run folder is still there, else the copy; the page is a folder then."""
    run = make_run("run", [(prompts[0], prompts[0].texts)], side=1200)
    page, *_ = write_report([run], tmp_path / "large.html", max_mb=0.01)
    original = "document.querySelector('.side img').naturalWidth"
    browser.open(page, 1280)
    browser.page.locator("#prompt-1 .original").click()
    wait_until(browser, f"{original} === 1200")
    assert browser.problems == []
    (run / "images" / "0.png").unlink()
    browser.open(page, 390)
    browser.page.locator("#prompt-1 .original").click()
    assert browser.run(original) == 288


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_fault_of_accessibility(browser: Tab, page: Path, scheme: Scheme) -> None:
    """By the rules of axe-core: of the page, and of the viewer over it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core: pip install 'glmkit[dev]'")
    browser.open(page, 1280, scheme)
    for open_viewer in (False, True):
        if open_viewer:
            browser.page.locator("#prompt-1 .original").first.click()
        violations = axe.Axe().run(browser.page).response["violations"]
        assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in violations] == []


def test_everything_fits_at_200_percent(browser: Tab, page: Path) -> None:
    """A window of 1280 pixels at twice the size has 640 CSS pixels."""
    browser.open(page, 640)
    browser.page.locator("#prompt-1 .original").first.click()
    assert browser.run("document.querySelector('.viewer-bar').scrollWidth") <= 640
    assert browser.run("document.querySelector('.stage').clientHeight") >= 450
    assert browser.run("document.documentElement.scrollWidth") <= 640


def test_widths_and_colours(browser: Tab, page: Path) -> None:
    backgrounds = set()
    views: list[tuple[int, Scheme]] = [(1280, "light"), (390, "light"), (390, "dark")]
    for width, scheme in views:
        browser.open(page, width, scheme)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("Array.from(document.images).every(i => !i.complete || i.naturalWidth > 0)")
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
    assert reached[-5:] == ["sort", "show", "split", "boxes", "find"]
