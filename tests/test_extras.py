"""Packages of extras: what is missing is one line with the command that installs it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import test_wheel

from glmkit.errors import UserError
from glmkit.extras import require

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PACKAGES = [
    (extra, re.split(r"[<>=]", line)[0]) for extra in ("eval", "openai", "serve", "train") for line in EXTRAS[extra]
]


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


BASE = """
import importlib.metadata, io, json, sys
from contextlib import redirect_stderr
from importlib.machinery import PathFinder
packages, modules, commands = map(json.loads, sys.argv[1:])
find_spec, version = PathFinder.find_spec, importlib.metadata.version
def find(name, *arguments):
    return None if name.split(".")[0] in modules else find_spec(name, *arguments)
def of(name):
    if name.lower() in packages:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
PathFinder.find_spec, importlib.metadata.version = find, of
from glmkit.cli import main
found = {}
for line in commands:
    with redirect_stderr(io.StringIO()) as said:
        try:
            code = main(line.split())
        except SystemExit as error:
            code = error.code
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
    found[line] = code, said.getvalue()[-400:]
print(json.dumps(found))
"""
SHORT = {"generate": "--size 64x64", "edit": "--size 64x64", "bench speed": "--size 64x64", "eval": "--size 64x64"}
NEEDS_MORE = {"eval", "report", "sweep", "serve", "reference add"}  # of the commands below


def test_every_command_without_the_extras(tmp_path: Path) -> None:
    """It runs, or says what to install; never a traceback. Most of what it is run on is not there."""
    wanted = {package.lower() for _, package in PACKAGES}
    modules = sorted(
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if {name.lower() for name in names} & wanted or module == "cv2"
    )
    assert {"matplotlib", "pandas", "paddleocr", "fastapi"} <= set(modules)
    commands = [
        f"{line.replace('PROMPT', 'hello').replace('INSTRUCTION', 'red')} {extra}"
        for line in (*test_wheel.COMMANDS, test_wheel.SERVE)
        for extra in [next((more for start, more in SHORT.items() if line.startswith(start)), "")]
    ]
    ran = subprocess.run(
        [sys.executable, "-c", BASE, *map(json.dumps, (sorted(wanted), modules, commands))],
        cwd=tmp_path,
        env={**os.environ, "GLMKIT_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    for line, (code, said) in json.loads(ran.stdout.splitlines()[-1]).items():
        assert code in (0, 2), (line, code, said)
        if code == 0:
            continue
        assert "error: " in said, (line, said)
        if line.startswith(tuple(NEEDS_MORE)):
            assert 'pip install "glmkit[' in said, (line, said)
