"""The plan of several GPUs that hold a stage in shards: parts add up to the whole, and the published model fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from documents import table_lines

from glmkit import config
from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.training import data, fsdp, plan, quantization, shards_plan
from glmkit.training.objectives import stage_kinds

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
IMAGES = data.FileDataset(ROOT / "data/posters/validation")
GIB = 2**30
CAPTION = 'A poster that says "HELLO"'


@pytest.fixture(autouse=True)
def one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate of this CPU would be measured, and be another each time."""
    monkeypatch.setattr(plan, "matmul_flops", lambda *_: 1e12)


def recipe(name: str, *overrides: str) -> config.Recipe:
    folders = [f"data.{split}={ROOT / 'data' / 'posters' / split}" for split in ("train", "validation")]
    return config.load(ROOT / "recipes" / f"{name}.yaml", [*folders, *overrides])


@pytest.mark.thorough
def test_shards_are_parts_of_the_whole() -> None:
    one = recipe("nano/decoder_lora", "decoder.lora=null", "decoder.global_batch_size=8", "decoder.micro_batch_size=4")
    (whole,) = shards_plan.plan_in_shards(one, IMAGES, CPU, 1)
    (two,) = shards_plan.plan_in_shards(one, IMAGES, CPU, 2)
    with torch.device("meta"):
        transformer = checkpoint.new_component(checkpoint.NANO, "decoder")
    gathered = shards_plan.gathered_bytes(transformer, with_gradients=True)
    block = max(sum(value.nbytes for value in one.parameters()) for one in fsdp.blocks(transformer))
    assert 2 * 2 * block < gathered < 2 * sum(value.nbytes for value in transformer.parameters())
    assert two.weights == pytest.approx(whole.weights / 2 + gathered, abs=1)
    assert two.optimizer == pytest.approx(whole.optimizer / 2, abs=1)
    assert two.activations == whole.activations
    assert two.seconds == pytest.approx((whole.seconds or 0) / 2)
    (four,) = shards_plan.plan_in_shards(one, IMAGES, CPU, 4)  # which share the samples of a micro-batch
    assert four.activations is not None
    assert whole.activations is not None
    assert 0.4 < four.activations / whole.activations < 0.6


@pytest.mark.thorough
@pytest.mark.parametrize(("stage", "name"), [("autoregressive", "ar_lora"), ("decoder", "decoder_lora")])
def test_the_published_model_is_trained_whole(stage: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, gradients and moments in float32 are 16 bytes per parameter; the guide has the figures."""
    for module in (plan, quantization):
        monkeypatch.setattr(module, "dtype_for", lambda _: torch.bfloat16)
    changes = ["lora=null", "global_batch_size=8", "micro_batch_size=1", "gradient_checkpointing=1"]
    settings = recipe(name, *(f"{stage}.{change}" for change in changes))
    one = plan.plan_stage(stage, stage_kinds()[stage], settings, [(1024, 1024, ())], [CAPTION], CPU, 1.0)
    lines = table_lines("recipes/README.md", "trained whole")
    told = {(component, int(gpus)): numbers for component, gpus, *numbers in lines}
    for gpus in (4, 8):
        planned = shards_plan.in_shards(one, settings, gpus, CPU)
        assert 16 * planned.trained / gpus < planned.bytes < 80 * GIB
        each = (planned.bytes, planned.phases["saving"], planned.phases["samples"], planned.host_bytes)
        component = "AR model" if stage == "autoregressive" else stage
        assert [f"{value / GIB:.1f}" for value in each] == told[component, gpus]


def test_what_validate_says(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [f"data.{split}={ROOT / 'data' / 'posters' / split}" for split in ("train", "validation")]
    command = [
        "validate",
        str(ROOT / "recipes" / "nano" / "ar_lora.yaml"),
        *folders,
        "--device",
        "cpu",
        "--shards",
        "2",
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "memory of each of 2 GPUs: about" in shown
    assert "the CPU's memory: about" in shown


@pytest.mark.parametrize(
    ("changes", "gpus", "fix"),
    [
        ([], 0, "--shards 4"),
        (["autoregressive.lora.base=nf4"], 2, "lora.base=auto"),
        (["autoregressive.optimizer=muon"], 2, "optimizer=adamw"),
        (["autoregressive.global_batch_size=3", "autoregressive.micro_batch_size=3"], 2, "global_batch_size=4"),
    ],
)
def test_what_cannot_be_planned(changes: list[str], gpus: int, fix: str) -> None:
    settings: Any = recipe("nano/ar_lora", *changes)
    with pytest.raises(UserError, match=f"(?s){fix}"):
        shards_plan.plan_in_shards(settings, IMAGES, CPU, gpus)
