"""Every recipe of the repository is read, names its own command, and names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glmkit import config
from glmkit.config import Recipe
from glmkit.files import read_json, read_jsonl
from glmkit.generation.sequence import grids
from glmkit.pretraining import config as pretraining
from glmkit.sizes import parse_size

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if not path.name.endswith("architecture.yaml"))
LORA = sorted(path.name for path in (ROOT / "recipes").glob("*_lora.yaml"))


def load(path: Path) -> list[Recipe]:
    return [*pretraining.load(path).values()] if path.parent.name == "pretrain" else [config.load(path)]


def test_there_are_recipes() -> None:
    assert {"poster_lora.yaml", "vae.yaml", "semantic_vq.yaml", "autoregressive.yaml"} <= {
        path.name for path in RECIPES
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipe(path: Path) -> None:
    command = "pretrain" if path.parent.name == "pretrain" else "finetune"
    header = re.match(r"(?:# .*\n)*?# (glmkit \w+ \S+)\n", path.read_text(encoding="utf-8"))
    assert header
    assert header[1] == f"glmkit {command} {path.relative_to(ROOT)}", "the header names another command"
    for recipe in load(path):
        check(recipe)


def check(recipe: Recipe) -> None:
    """Refuse files that are not there, and sizes that the model cannot generate."""
    if recipe.data.prompts is not None:
        assert all((ROOT / str(file)).is_file() for file in (recipe.data.prompts, recipe.data.validation))
        return
    for folder in filter(None, (*(source.path for source in recipe.data.train), str(recipe.data.validation or ""))):
        for row in read_jsonl(ROOT / folder / "metadata.jsonl"):
            names = [name for key, name in row.items() if key.endswith("file_name")]
            assert names
            assert all((ROOT / folder / name).is_file() for name in names)
    sizes = list(map(parse_size, filter(None, [recipe.samples.size])))
    if isinstance(recipe, pretraining.PretrainRecipe):
        if recipe.architecture:
            assert (ROOT / recipe.architecture).is_file()
        sizes += [size for posters in (recipe.data.posters, recipe.data.edits) if posters for size in posters.shares]
    for size in sizes:
        grids(*size)


@pytest.mark.parametrize("name", [*LORA, "dpo.yaml"])
def test_lora_recipes_are_there_for_the_published_model_and_for_nano(name: str) -> None:
    """The same stages and adapters, with learning rates of their own: nano is a thousandth as large."""
    published, nano = (config.load(ROOT / "recipes" / folder / name) for folder in ("", "nano"))
    assert published.model == "glm-image"
    assert nano.model == "nano"
    assert len(text_of(name).splitlines()) < 40
    assert published.stages.keys() == nano.stages.keys()
    for stage, values in published.stages.items():
        assert nano.stages[stage].learning_rate > values.learning_rate
        assert nano.stages[stage].lora == values.lora


@pytest.mark.parametrize("name", [name for name in LORA if not name.startswith("rl_")])
def test_what_a_header_says_of_a_cpu_was_measured(name: str) -> None:
    """Seconds of every stage and the most memory, as `glmkit bench train` wrote them down."""
    rows = read_json(ROOT / "benchmarks" / "results" / "train_nano_cpu.json")["rows"]
    measured = [row for row in rows if row["recipe"] == Path(name).stem]
    seconds = " and ".join(f"{row['step']:.1f}" for row in measured)
    memory = max(row["peak_memory_gib"] for row in measured)
    header = re.search(r"2 CPU cores: ([\d.]+(?: and [\d.]+)?) s per step, ([\d.]+) GiB", text_of(f"nano/{name}"))
    assert header
    assert header.groups() == (seconds, f"{memory:.1f}")


def text_of(name: str) -> str:
    return (ROOT / "recipes" / name).read_text(encoding="utf-8")


def test_recipes_write_into_folders_of_their_own() -> None:
    outputs = [recipe.output for path in RECIPES for recipe in load(path)]
    assert len(set(outputs)) == len(outputs)
    assert all(output.startswith("reports/") for output in outputs), "reports/ is ignored by git"
