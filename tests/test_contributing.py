"""CONTRIBUTING.md is true: its map is the package, and every function that it names exists."""

from __future__ import annotations

import ast
import re

import pytest
from documents import ROOT, code_blocks, prose

DOCUMENT = "CONTRIBUTING.md"
MADE_BY_RUNS = {"reports/"}  # not in git


def map_entries() -> list[str]:
    """The paths of the file map, the indented ones under the folder above them."""
    (text,) = code_blocks(DOCUMENT, "text")
    entries, folder = [], ""
    for line in text.splitlines():
        name = line.split()[0]
        inside = line.startswith("  ")
        folder = folder if inside else name
        entries.append(folder + name if inside else name)
    return entries


def test_the_map_is_the_package() -> None:
    entries = map_entries()
    assert not [entry for entry in entries if entry not in MADE_BY_RUNS and not (ROOT / entry).exists()]
    files = {f"glmkit/{path.name}" + "/" * path.is_dir() for path in (ROOT / "glmkit").iterdir()}
    hidden = {name for name in files if re.search(r"__(pycache|main)__|py\.typed", name)}
    assert files - hidden == {entry for entry in entries if entry.startswith("glmkit/") and entry != "glmkit/"}


@pytest.mark.parametrize(
    "word",
    [
        "prefill",
        "classifier-free",
        "caption dropout",
        "gradient checkpointing",
        "patchify",
        "throughput",
        "latency",
        "roofline",
    ],
)
def test_a_search_for_a_word_of_the_field_finds_code(word: str) -> None:
    files = (ROOT / "glmkit").rglob("*.py")
    assert any(word in path.read_text(encoding="utf-8").lower() for path in files)


def named_functions() -> list[str]:
    """Every `path:function` or `path:Class.method` of the walks."""
    return re.findall(r"`(glmkit/[\w/]+\.py:[\w.]+)`", prose(DOCUMENT))


@pytest.mark.parametrize("name", named_functions())
def test_every_function_of_a_walk_exists(name: str) -> None:
    path, _, qualified = name.partition(":")
    body: list[ast.stmt] = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in qualified.split("."):
        definition = next((node for node in body if isinstance(node, DEFINITIONS) and node.name == part), None)
        assert definition is not None, f"{path} has no {qualified}"
        body = definition.body


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
