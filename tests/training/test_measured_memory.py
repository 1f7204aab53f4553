"""Estimates of memory are near what runs of the published sizes took on an H200."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glmkit import config
from glmkit.models import checkpoint
from glmkit.sizes import parse_size
from glmkit.training import phases, plan, quantization
from glmkit.training.benchmark import TrainingCase
from glmkit.training.flops import CAPTION
from glmkit.training.objectives import stage_kinds

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
TRAINING = ("all", "compiled_recipes", "packed")
NEAR = (0.92, 1.08)  # estimated / measured
CPU = torch.device("cpu")


def _cases() -> dict[str, tuple[TrainingCase, float]]:
    """Return what was measured, each case once, with its peak in GiB."""
    measured = {}
    for name in TRAINING:
        for row in json.loads((RESULTS / "train_h200" / f"{name}.json").read_text())["rows"]:
            if "error" not in row:
                case = _case(row)
                measured[_name(case)] = (case, row["peak_memory_gib"])
    return measured


def _name(case: TrainingCase) -> str:
    return " ".join(f"{key}={value}" for key, value in case.columns.items() if value and key != "cap_gib")


def _case(row: dict[str, Any]) -> TrainingCase:
    width, height = parse_size(row["size"])[::-1]
    if row["stage"] == "glyph":  # measured as the recipe has it
        stage = config.load(ROOT / "recipes" / "glyph_lora.yaml").stages["glyph"]
        return TrainingCase.from_recipe("glyph", stage, (height, width), edits=False)
    keys = ("batch", "gradient_checkpointing", "base", "pack", "offload", "compile")
    settings = {key: row[key] for key in keys} | {"edits": row.get("edits", False)}
    return TrainingCase(row["stage"], height, width, **settings)


CASES = _cases()
QUICK = [_name(TrainingCase("autoregressive", 1024, 1024, 8)), _name(TrainingCase("decoder", 1024, 1024, 4))]


def _recipe(name: str, stage: config.Stage) -> config.Recipe:
    folders = {"train": "train", "validation": "validation"}
    values = {"model": "glm-image", "output": "run", "data": folders}
    return config.from_dict({**values, name: stage.model_dump(exclude_none=True)})


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plan, quantization):
        monkeypatch.setattr(module, "dtype_for", lambda _: torch.bfloat16)


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.thorough) for one in CASES]
)
def test_steps(name: str) -> None:
    case, measured = CASES[name]
    shape = (case.height, case.width, ((case.height, case.width),) * case.edits)
    planned = plan.plan_stage(
        case.name,
        stage_kinds()[case.name],
        _recipe(case.name, case.stage),
        [shape],
        [CAPTION],
        CPU,
        flops_per_second=1.0,
        with_phases=False,
    )
    assert NEAR[0] < planned.bytes / 2**30 / measured < NEAR[1]


@pytest.mark.parametrize("side", [512, 1024, 2048])
@pytest.mark.thorough
def test_generation(side: int) -> None:
    """The evaluation of a recipe generates with all components in memory, as was measured."""
    rows = json.loads((RESULTS / "speed_h200" / "images.json").read_text())["rows"]
    (measured,) = (row["peak_gib"] for row in rows if row["case"] == f"{side}x{side}")
    recipe = _recipe("decoder", TrainingCase("decoder", side, side, 1).stage)

    def component(name: str) -> torch.nn.Module:
        with torch.device("meta"):
            module: torch.nn.Module = checkpoint.build_component(name, plan.component_config(recipe, name))
        return module.to(torch.bfloat16)

    assert NEAR[0] < phases.evaluating(side, side, component) / 2**30 / measured < NEAR[1]


def test_every_stage_was_measured() -> None:
    assert set(QUICK) <= CASES.keys()
    assert {case.name for case, _ in CASES.values()} == {"autoregressive", "decoder", "glyph"}
