"""One file a suite; `text_render.py` is the suite `text-render`.

A suite has `PROMPTS` (its JSONL file), `METRICS` (metric -> direction and definition),
`counts(prompt, read lines, picture file) -> {metric: (numerator, denominator)}`, and `references(prompt)`: the pictures
that belong to a prompt, by name. `source` is what the model has to edit, `expected` what should come out; most suites
have none.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from glmkit.errors import UserError, unknown
from glmkit.files import read_jsonl
from glmkit.records import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Suite(Protocol):
    PROMPTS: Path
    METRICS: Mapping[str, Mapping[str, str]]

    def counts(self, prompt: Prompt, read: Sequence[str], picture: Path) -> dict[str, tuple[float, float]]: ...

    def references(self, prompt: Prompt) -> Mapping[str, Image]: ...


def names() -> list[str]:
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Suite:
    """The suite of that name; UserError with the nearest name when there is none."""
    if name not in names():
        raise unknown("suite", name, names())
    return cast(Suite, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def prompts(suite: Suite, split: str | None = None, limit: int | None = None) -> list[Prompt]:
    """The prompts of a suite in the order of its file: those of `split`, and the first `limit` of each split."""
    chosen: list[Prompt] = []
    sizes: dict[str, int] = {}
    for prompt in _read(suite.PROMPTS):
        sizes[prompt.split] = sizes.get(prompt.split, 0) + 1
        if split in (None, prompt.split) and (limit is None or sizes[prompt.split] <= limit):
            chosen.append(prompt)
    if split is not None and split not in sizes:
        raise unknown("split", split, sizes)
    return chosen


def _read(path: Path) -> list[Prompt]:
    rows = [Prompt.from_row(row) for row in read_jsonl(path)]
    seen: set[str] = set()
    for prompt in rows:
        if not _FILE_NAME.fullmatch(prompt.id):
            raise UserError(f"{path}: a prompt id names a picture file", found=prompt.id, fix="letters, digits, . _ -")
        if prompt.id in seen:
            raise UserError(f"{path}: prompt id {prompt.id!r} is given twice")
        if not prompt.texts or not all(text.strip() for text in prompt.texts):
            raise UserError(f"{path}: prompt {prompt.id!r} has no expected text", found=list(prompt.texts))
        seen.add(prompt.id)
    return rows
