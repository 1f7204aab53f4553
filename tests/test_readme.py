"""The README is true: its commands parse, its targets and its files exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from glmkit.cli import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MADE_BY_RUNS = {"reports/"}  # not in git


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words and words[0] == program]


def map_entries() -> list[str]:
    """The paths of the file map, the indented ones under the folder above them."""
    (text,) = blocks("text")
    entries, folder = [], ""
    for line in text.splitlines():
        name = line.split()[0]
        inside = line.startswith("  ")
        folder = folder if inside else name
        entries.append(folder + name if inside else name)
    return entries


@pytest.mark.parametrize("argv", commands("glmkit"), ids=" ".join)
def test_every_command_parses_and_its_inputs_exist(argv: list[str]) -> None:
    build_parser().parse_args(argv)
    shipped = [word for word in argv if word.startswith(("recipes/", "benchmarks/", "data/"))]
    assert all((ROOT / word).exists() for word in shipped)


def test_every_kind_of_command_is_shown() -> None:
    rooms = {path.stem for path in (ROOT / "glmkit" / "commands").glob("[!_]*.py")}
    assert {argv[0] for argv in commands("glmkit")} == rooms


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"demo", "test"} <= {argv[0] for argv in commands("make")} <= set(targets)


def test_the_map_is_the_house() -> None:
    entries = map_entries()
    assert not [entry for entry in entries if entry not in MADE_BY_RUNS and not (ROOT / entry).exists()]
    rooms = {f"glmkit/{path.name}" + "/" * path.is_dir() for path in (ROOT / "glmkit").iterdir()}
    hidden = {room for room in rooms if re.search(r"__|py\.typed", room)}
    assert rooms - hidden == {entry for entry in entries if entry.startswith("glmkit/") and entry != "glmkit/"}


def test_files_named_in_the_text_exist() -> None:
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`((?:data|glmkit|recipes|benchmarks|tests)/[^`\s]*|[A-Za-z]+\.txt|LICENSE)`", prose)
    assert named and not [name for name in named if not (ROOT / name).exists()]


def test_supported_versions_agree_with_the_constraints() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==([\d.]+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package in ("torch", "transformers"):
        newest = re.search(rf"{package} [\d.]+ to ([\d.]+)", README)
        assert newest and pinned[package].startswith(newest[1] + ".")
    assert project["requires-python"] == ">=3.11" and "Python 3.11 or" in README
    asked = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}
    asked |= {re.split(r"[<>=]", line)[0] for extra in project["optional-dependencies"].values() for line in extra}
    normal = {name.lower().replace("_", "-") for name in pinned}
    assert not {name.lower().replace("_", "-") for name in asked} - normal
