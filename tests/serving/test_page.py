"""The page in a real browser, by Playwright and the system's Chromium. Skipped where one of them is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from serving.conftest import Serve

from glmkit.files import write_json

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright", reason="no Playwright: pip install 'glmkit[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium")
PROMPT = 'A sign that says "OPEN" and “café”.'


@pytest.fixture
def page(serve: Serve, tiny_copy: Path) -> Iterator[Page]:
    """The page of a server with the toy model; nothing may appear on its console but what was asked for in vain."""
    from playwright.sync_api import sync_playwright

    write_json(tiny_copy / "glmkit.json", {"defaults": {"size": "64x64", "steps": 2}})
    served, problems = serve(tiny_copy, max_steps=1000), list[str]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.on("console", lambda message: problems.extend([message.text] * ("400 (Bad" not in message.text)))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(served.url)
        yield tab
        browser.close()
    assert problems == []


def finish(page: Page) -> None:
    page.locator("#status", has_text="Done").wait_for(timeout=30_000)


def test_generate_compare_and_collect_pairs(page: Page, tmp_path: Path) -> None:
    page.fill("#prompt", PROMPT)
    assert page.locator("#texts b").all_text_contents() == ["café", "OPEN"]  # in the published order
    page.fill("#seed", "7")
    page.press("#prompt", "Control+Enter")
    finish(page)
    assert page.locator("#view figure").count() == 1
    assert "seed 7, 64x64" in page.locator("#view figcaption").inner_text()
    page.click("#another")
    page.locator("#history li:nth-child(2)").wait_for(timeout=30_000)
    finish(page)
    page.locator("#history button").nth(1).click()
    assert page.locator("#view figure").count() == 2
    page.click("#left")
    page.locator("#pairs", has_text="Download 1 pair").wait_for()
    with page.expect_download() as download:
        page.click("#pairs")
    download.value.save_as(tmp_path / "pairs.jsonl")
    (pair,) = map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    assert pair["prompt"] == PROMPT
    assert pair["chosen"] != pair["rejected"]
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as image:
        assert image.info["prompt"] == PROMPT
    page.reload()
    page.locator("#history li:nth-child(2)").wait_for()  # kept by the browser
    page.locator("#pairs", has_text="Download 1 pair").wait_for()


def test_edit_a_file_and_stop(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "source.png")
    page.set_input_files("#files", tmp_path / "source.png")
    assert page.locator("#go").inner_text() == "Edit"
    page.fill("#prompt", "Make it blue.")
    page.fill("#steps", "1000")
    page.click("#go")
    page.locator("#status", has_text="denoising").wait_for(timeout=30_000)
    page.click("#stop")
    page.locator("#problem", has_text="Stopped.").wait_for()
    page.fill("#steps", "2")
    page.click("#go")
    finish(page)


def test_an_error_is_shown(page: Page) -> None:
    page.fill("#prompt", "a" * 5000)
    with page.expect_response("**/v1/images/generations"):
        page.click("#go")
    page.locator("#problem", has_text="at most 4000 characters").wait_for()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(page: Page, width: int, scheme: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: pip install 'glmkit[dev]'")
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    violations = axe.Axe().run(page).response["violations"]
    assert [one["id"] for one in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
