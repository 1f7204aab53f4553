"""Copies of model folders, whatever links people have in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from glmkit.errors import UserError
from glmkit.files import check_regular
from glmkit.hashing import MADE_BY


def copy(model: Path, target: Path) -> None:
    """Copy a model folder whose weights may change: without README, its images, and notes on how it was made.

    `target` may be there and empty. Links are copied as what they lead to; UserError for one that has no end.
    """
    left_out = shutil.ignore_patterns("README.md", "*.png", MADE_BY)

    def ignored(folder: str, names: list[str]) -> set[str]:
        skipped = left_out(folder, names)
        _check_copied(model, Path(folder), set(names) - skipped)
        return skipped

    shutil.copytree(model, target, ignore=ignored, dirs_exist_ok=True)


def _check_copied(model: Path, folder: Path, names: Iterable[str]) -> None:
    """UserError for a folder that holds itself or a folder above it, and for pipes and devices."""
    above = [path.resolve() for path in (folder, *folder.parents) if path.is_relative_to(model)]
    for path in sorted(folder / name for name in names):
        real = Path(os.path.realpath(path))  # a Path raises for a link to itself
        if path.is_dir():
            if any(one.is_relative_to(real) for one in above):
                raise UserError(f"{path} leads to a folder that it is in", found=real, fix="remove this link")
            continue
        try:
            check_regular(path, str(path))
        except OSError as error:
            raise UserError(f"{path} cannot be read", found=error.strerror, fix="remove this link") from error
