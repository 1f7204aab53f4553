"""The log of measurements: its contents name every entry, and every link leads to one."""

from __future__ import annotations

import re
from pathlib import Path

LOG = (Path(__file__).parents[2] / "benchmarks" / "LOG.md").read_text(encoding="utf-8")


def anchor(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_contents_name_every_entry() -> None:
    titles = [title for title in re.findall(r"^## (.*)$", LOG, flags=re.MULTILINE) if title[0].isdigit()]
    assert set(re.findall(r"\]\(#([^)]+)\)", LOG)) == set(map(anchor, titles))
    assert len(set(titles)) == len(titles)


def test_the_newest_entry_is_the_first() -> None:
    dates = re.findall(r"^## (\d{4}-\d\d-\d\d): ", LOG, flags=re.MULTILINE)
    assert dates
    assert dates == sorted(dates, reverse=True)
