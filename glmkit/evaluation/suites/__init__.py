"""One file per suite: `text_render.py` is the suite `text-render` and holds it as `SUITE` (`shared.base.Suite`)."""

from __future__ import annotations

import re
from pathlib import Path

from glmkit.errors import UserError, unknown
from glmkit.evaluation.named_files import NamedFiles
from glmkit.evaluation.suites.shared.base import Suite
from glmkit.records import Prompt

_FILES = NamedFiles(__name__, "suite")
_FILE_NAME = re.compile(r"\w[\w.-]*")


def names() -> list[str]:
    """List the suites."""
    return _FILES.names()


def load(name: str) -> Suite:
    """Load the suite of that name; UserError with the nearest name when there is none."""
    suite: Suite = _FILES.load(name).SUITE
    return suite


def prompts(suite: Suite, split: str | None = None, limit: int | None = None, data: Path | None = None) -> list[Prompt]:
    """Read the prompts of a suite in the order of its files: those of `split`, and the first `limit` of each split.

    `data` is the folder with the prompt files of a public benchmark.
    """
    chosen: list[Prompt] = []
    sizes: dict[str, int] = {}
    files = suite.files(data)
    everything = suite.read(files)
    if not everything:
        raise UserError(f"no prompts in {', '.join(map(str, files))}", fix="download or copy the benchmark again")
    _check_ids(files[0].parent, everything)
    for prompt in everything:
        sizes[prompt.split] = sizes.get(prompt.split, 0) + 1
        if split in (None, prompt.split) and (limit is None or sizes[prompt.split] <= limit):
            chosen.append(prompt)
    if split is not None and split not in sizes:
        raise unknown("split", split, sizes)
    return chosen


def _check_ids(folder: Path, prompts: list[Prompt]) -> None:
    """UserError when an id is given twice or is no file name: images are named after it."""
    seen: set[str] = set()
    for prompt in prompts:
        if not _FILE_NAME.fullmatch(prompt.id):
            raise UserError(f"{folder}: a prompt id names an image file", found=prompt.id, fix="letters, digits, . _ -")
        if prompt.id in seen:
            raise UserError(f"{folder}: prompt id {prompt.id!r} is given twice")
        seen.add(prompt.id)
