"""Voting in a real browser: by keyboard, kept over a reload, and exported as `glmkit votes` reads it."""

# ruff: noqa: F811
from __future__ import annotations

from pathlib import Path

import pytest
from plain_runs import write_run

pytest.importorskip("playwright", reason="no Playwright: pip install 'glmkit[dev]'")

from reporting.test_browser import Tab, browser, chromium, pytestmark  # noqa: F401 - fixtures

from glmkit.reporting.blind import write_blind
from glmkit.reporting.votes import read_votes

PAIRS = 4


def state(tab: Tab) -> tuple[str, str]:
    """The pair that is seen, and what is said of it."""
    visible = "Array.from(document.querySelectorAll('.vote-pair, #done')).filter(e => !e.hidden).map(e => e.id).join()"
    return str(tab.run(visible)), str(tab.run("document.getElementById('position').textContent"))


def test_votes_by_keyboard_are_kept_and_exported(browser: Tab, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, [(1, 1)] * PAIRS, images=True)
    page, _ = write_blind([tmp_path / "a", tmp_path / "b"], tmp_path / "blind.html")
    browser.open(page, 1280)
    assert state(browser) == ("pair-1", "Pair 1 of 4, 0 with a vote")
    for key in ("ArrowLeft", "ArrowDown", "ArrowUp", "ArrowRight"):  # the second vote is a mistake, and taken back
        browser.page.keyboard.press(key)
    assert state(browser) == ("pair-3", "Pair 3 of 4, 2 with a vote")
    browser.page.fill("#voter", "Ann Example")
    browser.page.keyboard.press("ArrowLeft")  # moves the cursor
    assert state(browser)[0] == "pair-3"

    # A reload goes on where it was.
    browser.open(page, 390)
    assert state(browser) == ("pair-3", "Pair 3 of 4, 2 with a vote")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.page.keyboard.press("ArrowUp")
    assert browser.run("document.querySelector('[aria-pressed=true]').dataset.choice") == "right"
    browser.page.keyboard.press("ArrowDown")
    browser.page.click("[data-choice=tie]")
    browser.page.click("[data-choice=right]")
    assert state(browser) == ("done", "4 of 4 pairs have a vote")

    with browser.page.expect_download() as download:
        browser.page.click("#export")
    assert download.value.suggested_filename == "votes-Ann-Example.json"
    download.value.save_as(tmp_path / "votes.json")
    votes, metrics = read_votes([tmp_path / "votes.json"])
    assert [(vote.voter, vote.sign) for vote in votes] == [("Ann Example", sign) for sign in (1, 0, 0, -1)]
    assert {vote.pair["left"]["run"] for vote in votes} <= {"a", "b"}
    assert list(metrics) == ["word_accuracy"]
    assert browser.problems == []
