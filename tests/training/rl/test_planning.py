"""The plan of a stage with rewards: every component stays in memory, and rounds have their time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glmkit import config
from glmkit.cli import main
from glmkit.models import checkpoint
from glmkit.training import explanation, phases, plan, rl

pytestmark = pytest.mark.thorough
CPU = torch.device("cpu")
RECIPES = Path(__file__).parents[3] / "recipes"


def test_a_plan_has_rounds(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a poster", "size": "64x64"}))
    changes = [f"model={tiny_model}", f"data.prompts={tmp_path / 'prompts.jsonl'}", "data.validation=null"]
    few, many = (
        config.load(RECIPES / "nano" / "rl_ar.yaml", [*changes, f"autoregressive.rl.denoising_steps={steps}"])
        for steps in (1, 900)
    )
    ((planned,), (slower,)) = (plan.plan(one, rl.load_data(one)[0], CPU) for one in (few, many))
    components = [checkpoint.new_component(tiny_model, name).float() for name in phases.GENERATES]
    assert planned.weights == sum(map(phases.weight_bytes, components)) + 4 * planned.trained
    assert planned.phases["rounds"] > planned.weights + planned.optimizer
    assert planned.round_seconds is not None
    assert slower.round_seconds is not None
    assert 0 < planned.round_seconds < slower.round_seconds / 5
    assert slower.seconds is not None
    assert slower.seconds > 100 * slower.round_seconds
    assert "generating the images of one round" in "\n".join(explanation.lines([slower], CPU))


@pytest.mark.parametrize("name", ["rl_ar", "rl_decoder"])
def test_the_published_model_is_planned_without_its_files(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(RECIPES / f"{name}.yaml"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "train: 256 prompts; 512x512: 256" in said
    assert "generating the images of one round" in said
