"""Pretraining recipes: what they have beside those of fine-tuning, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glmkit.errors import UserError
from glmkit.pretraining import config

RECIPE = """\
output: reports/x
data: {posters: {count: 4}}
decoder: {steps: 10, global_batch_size: 4, learning_rate: 1e-4}
"""
STAGE = "{steps: 1, global_batch_size: 1, learning_rate: 1}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["data.posters=null"], "either data.train"),
        (["data.train=a", "data.validation=b"], "not both"),
        (["data.posters=null", "data.edits={count: 3}", f"vae={STAGE}"], "vae cannot learn"),
        (["data.posters.cuont=3"], "data.posters.cuont: unknown key; did you mean 'count'"),
        (["data.posters.count=1000000000000"], "data.posters.count: "),
        (["data.posters.size={}"], "data.posters.size"),
        (["vae={lora: {targets: [a]}, steps: 1, global_batch_size: 1, learning_rate: 1}"], "vae.lora: "),
        (["decoder.character_weight=1"], "need train_glyph"),
        ([f"clip={STAGE}"], "stands alone"),
        (["eval={}"], "eval"),
        (["decoder=null"], "at least one stage: vae, semantic_vq"),
    ],
)
def test_contradictions(recipe: Path, assignments: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(recipe, assignments)
    assert said in str(caught.value)


def test_stages_run_in_the_order_of_the_data_flow(recipe: Path) -> None:
    loaded = config.load(recipe, [f"vae={STAGE}", f"autoregressive={STAGE}", f"semantic_vq={STAGE}"])[""]
    assert list(loaded.stages) == ["vae", "semantic_vq", "autoregressive", "decoder"]
    assert loaded.autoregressive is not None
    assert loaded.autoregressive.preview


def test_phases_follow_one_another_with_keys_of_their_own(recipe: Path) -> None:
    """Overrides hold for all of them; each has an output of its own."""
    phases = "phases: {small: {data.posters.size: 128x128}, large: {decoder.steps: 20, data.posters: {count: 9}}}\n"
    recipe.write_text(RECIPE + phases)
    loaded = config.load(recipe, ["decoder.learning_rate=2", "output=reports/y"])
    assert list(loaded) == ["small", "large"]
    small, large = loaded.values()
    assert (small.output, large.output) == ("reports/y/small", "reports/y/large")
    assert small.data.posters is not None
    assert (small.data.posters.size, small.data.posters.count) == ("128x128", 4)
    assert large.data.posters is not None
    assert (large.data.posters.size, large.data.posters.count) == ("256x256", 9)
    assert [one.decoder.steps for one in (small, large) if one.decoder] == [10, 20]
    assert [one.decoder.learning_rate for one in (small, large) if one.decoder] == [2, 2]
    assert config.load(recipe, (), "large") == {"large": config.load(recipe)["large"]}


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ("[small]", "phases must name"),
        ("{}", "phases must name"),
        ("{small: 3}", "small: 3"),
        ("{../up: {}}", "../up"),
        ("{small: {decoder.stepps: 3}}", "phase small, is not a valid recipe"),
        ("{small: {output.name: x}}", "'output' is a value"),
        ("{small: {}}", "unknown phase 'large'"),
    ],
)
def test_bad_phases(recipe: Path, phases: str, said: str) -> None:
    recipe.write_text(f"{RECIPE}phases: {phases}\n")
    with pytest.raises(UserError) as caught:
        config.load(recipe, (), "large")
    assert said in str(caught.value)


def test_a_phase_of_a_recipe_without_phases_is_refused(recipe: Path) -> None:
    with pytest.raises(UserError, match="has no phases"):
        config.load(recipe, (), "large")


def test_recipes_are_read_without_torch(recipe: Path) -> None:
    code = "import sys; from glmkit.pretraining import config\n"
    code += f"config.load({str(recipe)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
