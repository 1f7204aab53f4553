"""The documents are true: their Python runs, their keys, files and links exist."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from documents import DOCUMENTS, LAUNCHER, ROOT, code_blocks, command_lines, prose, read
from PIL import Image

import glmkit
from glmkit import config

API = ("load", "finetune", "evaluate", "report")


def commands(program: str, documents: tuple[str, ...] = DOCUMENTS) -> list[list[str]]:
    """The arguments of every call of a program, each once; launchers and what stands after a pipe are left out."""
    calls = []
    for line in [line for document in documents for line in command_lines(document)]:
        words = shlex.split(LAUNCHER.sub("", line))
        if words and words[0] == program and words[1:] not in calls:
            calls.append(words[1:])
    return calls


def keys_of_recipes() -> list[str]:
    """`key=value` in the first column of a table of recipes/README.md."""
    lines = [line for line in read("recipes/README.md").splitlines() if line.startswith("| `")]
    return [value for line in lines for value in re.findall(r"`(\S+=\S+)`", line.split("|")[1])]


@pytest.mark.parametrize("value", keys_of_recipes())
def test_the_keys_of_a_stage_are_keys(value: str) -> None:
    for stage in ("autoregressive", "decoder") if value.startswith("STAGE") else (value.partition(".")[0],):
        of_rewards = {"autoregressive": "rl_ar", "decoder": "rl_decoder"}
        name = of_rewards[stage] if ".rl." in value else "poster_lora"
        config.load(ROOT / "recipes" / f"{name}.yaml", [value.replace("STAGE", stage)])


def test_every_kind_of_command_is_shown() -> None:
    names = {module.name for module in pkgutil.iter_modules([str(ROOT / "glmkit" / "commands")])}
    assert {argv[0] for argv in commands("glmkit")} == names


def test_the_readme_is_a_front_door() -> None:
    assert len(read("README.md").splitlines()) <= 150
    first_screen = "\n".join(read("README.md").splitlines()[:40])
    assert all(text in first_screen for text in ("make demo", "pip install", "glmkit generate", "import glmkit"))


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for the model and its sizes, the device, and the number of steps and prompts."""
    # tests/serving runs the client of a server.
    code = "\n".join(block for block in code_blocks("README.md", "python") if "base_url" not in block)
    quick: dict[str, Any] = {f"{stage}.steps": 1 for stage in ("autoregressive", "decoder")} | {"samples.prompts": []}
    quick |= {"data.train": "data/posters/validation", "data.size": "64x64"}
    for written, here in (
        ('"cuda"', '"cpu"'),
        ('"nano"', '"zai-org/GLM-Image"'),
        ("1024", "64"),
        ("limit=16", "limit=2, num_inference_steps=1, height=64, width=64"),
        ('output="reports/mine"', f'output="reports/mine", overrides={quick}'),
        ("seed=[0, 1, 2]", "seed=[0, 1, 2], height=64, width=64, num_inference_steps=1"),
    ):
        assert written in code
        code = code.replace(written, here)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "zai-org" / "GLM-Image")
    Image.new("RGB", (64, 64), "blue").save("photo.png")
    names: dict[str, Any] = {}
    exec(code, names)
    assert isinstance(names["after"], glmkit.Model)
    assert names["after"].adapters == ("reports/mine/adapter:0.8",)
    assert [path.name for path in sorted(tmp_path.glob("?.png"))] == ["0.png", "1.png", "2.png"]
    standings = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["leaderboard"]
    assert {standing["run"] for standing in standings} == {"before", "after"}
    assert {f"glmkit.{name}" for name in API} <= set(re.findall(r"glmkit\.\w+", code))


def test_make_targets_exist() -> None:
    rules = re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    assert {"demo", "test", "test-all"} <= {argv[0] for argv in commands("make")} <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_in_the_text_exist(document: str) -> None:
    pattern = r"`((?:data|glmkit|recipes|benchmarks|tests)/[^`\s:<*]*|[A-Za-z]+\.txt|LICENSE)`"
    named = re.findall(pattern, prose(document))
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    for link in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = folder / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in headings(target), link


def headings(path: Path) -> set[str]:
    """The anchors of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_supported_versions_agree_with_the_constraints() -> None:
    readme = " ".join(read("README.md").split())
    pinned = dict(re.findall(r"^([\w.-]+)==([\d.]+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package in ("torch", "transformers"):
        said = re.search(rf"{package} (\d+)\.(\d+) to (\d+)\.(\d+)", readme)
        assert said
        first, last = [tuple(map(int, pair)) for pair in (said.groups()[:2], said.groups()[2:])]
        assert first <= tuple(map(int, pinned[package].split(".")[:2])) <= last
    assert project["requires-python"] == ">=3.11,<3.15"
    assert "Python 3.11 to 3.14" in readme
    required = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}
    required |= {re.split(r"[<>=]", line)[0] for extra in project["optional-dependencies"].values() for line in extra}
    normal = {name.lower().replace("_", "-") for name in pinned}
    assert not {name.lower().replace("_", "-") for name in required if not name.startswith("glmkit[")} - normal
