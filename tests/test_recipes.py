"""Every recipe of the repository is read, names its own command, and names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glmkit import config
from glmkit.files import read_json, read_jsonl
from glmkit.generation.sequence import grids

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if not path.name.endswith("architecture.yaml"))


def test_there_are_recipes() -> None:
    assert {"poster_lora.yaml", "vae.yaml", "semantic_vq.yaml", "autoregressive.yaml"} <= {
        path.name for path in RECIPES
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipe(path: Path) -> None:
    recipe = config.load(path)
    header = re.match(r"(?:# .*\n)*?# (glmkit finetune \S+)\n", path.read_text(encoding="utf-8"))
    assert header and header[1] == f"glmkit finetune {path.relative_to(ROOT)}", "the header names another command"
    if recipe.architecture:
        assert (ROOT / recipe.architecture).is_file()
    for data in (recipe.data, config.load(path, ["model=nano"]).data):
        for folder in filter(None, (*(source.path for source in data.train), data.validation)):
            for row in read_jsonl(ROOT / folder / "metadata.jsonl"):
                assert (ROOT / folder / row["file_name"]).is_file()
    drawn = filter(None, (recipe.data.posters, recipe.data.edits))
    sizes = [size for posters in drawn for size in posters.shares]
    for size in [*sizes, *map(config.parse_size, filter(None, [recipe.samples.size]))]:
        grids(*size)


LORA = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("name", LORA)
def test_lora_recipes_are_for_the_published_model_and_run_on_nano(name: str) -> None:
    """With learning rates of its own: nano is a thousandth as large."""
    path = ROOT / "recipes" / name
    published, nano = config.load(path), config.load(path, ["model=nano"])
    assert published.model == "glm-image" and nano.model == "nano"
    assert len(text_of(name).splitlines()) < 40
    for stage, values in published.stages.items():
        assert nano.stages[stage].learning_rate > values.learning_rate


@pytest.mark.parametrize("name", LORA)
def test_what_a_header_says_of_a_cpu_was_measured(name: str) -> None:
    """Seconds of every stage and the most memory, as `glmkit bench train` wrote them down."""
    rows = read_json(ROOT / "benchmarks" / "results" / "train_nano_cpu.json")["rows"]
    own = [row for row in rows if row["recipe"] == Path(name).stem]
    seconds = " and ".join(f"{row['step']:.1f}" for row in own)
    memory = max(row["peak_memory_gib"] for row in own)
    said = re.search(r"([\d.]+(?: and [\d.]+)?) s a step(?:,| and) ([\d.]+) GiB on 2 CPU cores", text_of(name))
    assert said and said.groups() == (seconds, f"{memory:.1f}")


def text_of(name: str) -> str:
    return (ROOT / "recipes" / name).read_text(encoding="utf-8")


def test_recipes_write_into_folders_of_their_own() -> None:
    outputs = [config.load(path).output for path in RECIPES]
    assert len(set(outputs)) == len(outputs)
    assert all(output.startswith("reports/") for output in outputs), "reports/ is ignored by git"
