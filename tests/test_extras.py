"""Packages of extras: what is missing is one line with the command that installs it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from glmkit.errors import UserError
from glmkit.extras import require

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PACKAGES = [(extra, re.split(r"[<>=]", line)[0]) for extra in ("eval", "openai", "train") for line in EXTRAS[extra]]


@pytest.mark.parametrize(("extra", "package"), PACKAGES)
def test_each_package_names_an_extra_that_has_it(extra: str, package: str, uninstall: Callable[..., None]) -> None:
    uninstall(package)
    with pytest.raises(UserError) as error:
        require(package, "this")
    assert error.value.what == f"this needs the package {package}"
    assert error.value.fix is not None
    named = re.fullmatch(r'pip install "glmkit\[(\w+)\]"', error.value.fix)
    assert named
    assert named[1] not in ("all", "dev")
    assert package in {re.split(r"[<>=]", line)[0] for line in EXTRAS[named[1]]}, extra


def test_what_is_installed_and_what_no_extra_has(uninstall: Callable[..., None]) -> None:
    require("torch", "this")
    require("open-clip-torch", "the other spelling")
    uninstall("wandb")
    with pytest.raises(UserError, match='pip install "wandb"'):
        require("wandb", "this")
