"""The page in a real browser, over Chromium's DevTools pipe. Skipped where no Chromium is on PATH."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reporting import conftest
from reporting.conftest import MakeRun

from glmkit.records import Prompt
from glmkit.reporting import gallery
from glmkit.reporting.build import write_report
from glmkit.reporting.thumbnails import Thumbnail, data_uri

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --remote-debugging-pipe"
)


class Browser:
    """One tab. `problems` collects what the page wrote to the console, what it threw, and what it tried to load."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        wiring = f'exec "{CHROMIUM}" {OPTIONS} --user-data-dir="{profile}" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", wiring],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        self.problems: list[Any] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            read = os.read(self._in, 1 << 16)
            assert read, "the browser has gone"
            self._pending += read
        line, self._pending = self._pending.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(line)
        method, parameters = answer.get("method"), answer.get("params", {})
        url = parameters.get("request", {}).get("url", "")
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") or url.startswith(
            "http"
        ):
            self.problems.append(answer)
        return answer

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=page.as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press_tab(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)

    def close(self) -> None:
        self._session = None
        self.send("Browser.close")
        self._process.wait(timeout=20)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


@pytest.fixture
def page(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> Path:
    long = Prompt("long", "W" * 400, ("W" * 60,), "hard")
    before = [(prompt, [prompt.texts[0][1:]]) for prompt in prompts] + [(long, ["W" * 60])]
    after = [(prompt, prompt.texts) for prompt in prompts] + [(long, RuntimeError("x" * 300))]
    out = tmp_path / "report.html"
    write_report([make_run("before", before), make_run("after", after, adapters=["runs/a/adapter"])], out)
    return out


def visible_prompts(browser: Browser) -> list[str]:
    script = "Array.from(document.querySelectorAll('.prompt:not([hidden]) h3 bdi'), e => e.textContent)"
    return list(browser.run(script))


def choose(browser: Browser, name: str, value: str) -> None:
    field = f"document.querySelector('#controls [name={name}]')"
    browser.run(f"{field}.value = {value!r}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def test_order_and_filters(browser: Browser, page: Path) -> None:
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
    browser: Browser, tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]
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
    browser: Browser, tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
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


def test_widths_and_colours(browser: Browser, page: Path) -> None:
    backgrounds = set()
    for width, scheme in ((1280, "light"), (390, "light"), (390, "dark")):
        browser.open(page, width, scheme)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)")
        backgrounds.add(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2
    assert browser.problems == []


def test_the_keyboard_reaches_links_details_and_controls(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    reached: list[str] = []
    while "original" not in reached and len(reached) < 40:
        browser.press_tab()
        script = "(e => e.name || e.className || e.tagName)(document.activeElement)"
        reached.append(browser.run(script))
    assert reached[0] == "skip"
    assert reached.count("A") == 4
    assert reached[-1] == "original"
    assert "SUMMARY" in reached
    assert [name for name in reached if name in ("sort", "show", "split", "find")] == ["sort", "show", "split", "find"]
