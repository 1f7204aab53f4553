"""What is told before a run is what the run does: parameters, sequence lengths, and what autograd keeps."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from glmkit import config
from glmkit.cli import main
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import data, explanation, features, lora, memory_tracker, offload, plan
from glmkit.training.objectives import stage_kinds
from glmkit.training.objectives.token_batches import TokenSequences

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
CAPTIONS = ['A poster that says "HELLO" and "you"']


def recipe(name: str, *changes: str) -> config.Recipe:
    folders = [f"data.{split}={ROOT / 'data' / 'posters' / split}" for split in ("train", "validation")]
    return config.load(ROOT / "recipes" / f"{name}.yaml", [*folders, "model=nano", *changes])


@pytest.mark.parametrize(("name", "is_edit"), [("autoregressive", False), ("decoder", False), ("decoder", True)])
def test_a_model_without_memory_keeps_what_a_real_one_keeps(
    name: str, is_edit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved bytes and FLOPs of one pass, with adapters: counted on the meta device, and of real tensors with real
    attention (on this CPU fused as well, but for a small row of sums, and the masks of edits)."""
    settings = config.Lora(rank=4, targets=("o_proj",) if name == "autoregressive" else ("to_q", "ff.net.2"))
    found = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            parts: dict[str, Any] = {
                part: checkpoint.new_component(checkpoint.NANO, part) for part in stage_kinds()[name].components(name)
            }
            for part in parts.values():
                part.requires_grad_(False)
            lora.inject(parts[name], settings)
        found.append(plan.measure(name, parts, (128, 192, ((128, 192),) * is_edit), 2, CAPTIONS))
        monkeypatch.setattr(memory_tracker, "_FusedAttention", Unchanged)
    assert found[0].peak_bytes == pytest.approx(found[1].peak_bytes, rel=0.05)
    assert found[0].peak_bytes > 10**6
    assert found[0].flops == pytest.approx(found[1].flops, rel=0.02)


class Unchanged(nullcontext[None]):
    """In the place of what replaces attention: nothing is replaced, and the counter sees everything itself."""

    flops = 0


def test_trained_parameters_are_those_of_the_adapter() -> None:
    (told,) = plan.plan(recipe("decoder_lora"), data.FileDataset(ROOT / "data/posters/validation"), CPU)
    module = checkpoint.load_component(checkpoint.NANO, "decoder")
    total = plan.count_parameters(module)
    stage = recipe("decoder_lora").decoder
    assert stage is not None
    assert stage.lora is not None
    wrapped = lora.inject(module, stage.lora)
    assert told.trained == sum(value.numel() for value in wrapped.parameters() if value.requires_grad)
    assert told.parameters == total
    assert told.weights >= 4 * total
    assert told.bytes > told.weights
    assert told.seconds is not None
    assert told.seconds > 0


def test_blocks_that_wait_elsewhere_are_not_counted() -> None:
    images = data.FileDataset(ROOT / "data/posters/validation")
    changes: list[list[str]] = [[], ["decoder.lora.offload=true"]]
    here, away = (plan.plan(recipe("decoder_lora", *change), images, CPU)[0].weights for change in changes)
    with torch.device("meta"):
        saved = offload.bytes_saved(checkpoint.new_component(checkpoint.NANO, "decoder"), "auto", 4)
    assert here - away == saved > here / 2


def test_sequence_lengths_hold_the_longest_sequence() -> None:
    hybrid = HybridModel(checkpoint.NANO)
    images = data.FileDataset(ROOT / "data/posters/validation")
    (told,) = plan.plan(recipe("ar_lora"), images, CPU)
    sequences = TokenSequences(images, hybrid, features.FeatureCache(CPU))
    longest = max(map(len, sequences.prompts)) + 256 + 64 + 1
    assert longest <= told.tokens["256x256"] <= 1.2 * longest


def test_the_published_sizes_need_no_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """And a dry run leaves nothing behind."""
    folders = [f"data.{split}={ROOT / 'data' / 'edits' / split}" for split in ("train", "validation")]
    output = tmp_path / "run"
    command = ["finetune", str(ROOT / "recipes" / "edit_lora.yaml"), f"output={output}", *folders]
    assert main([*command, "--dry-run", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "autoregressive: 47,595,520 of 8,914,788,352 parameters" in shown
    assert "rank: 16" in shown
    assert "train: 24 images, 24 of them edits; 256x256 edits: 24" in shown
    assert "(0.534 %)" in shown
    assert re.search(r"time: about \d[\d.,]* (s|min|h|days), an estimate for this CPU", shown)
    assert not output.exists()


@pytest.mark.parametrize(
    ("trained", "seconds", "shares", "times"),
    [
        (3_184_896, 119, "(100 %)", "about 119 s,"),
        (318_490, 7199, "(10 %)", "about 120 min,"),
        (31_849, 7200, "(1 %)", "about 2.0 h,"),
        (1_700, 2 * 86400 - 1, "(0.0534 %)", "about 48.0 h,"),
        (33, 438_120, "(0.00104 %)", "about 5.1 days,"),
        (3, 1e8, "(less than 0.001 %)", "about 1,157.4 days,"),
    ],
)
def test_numbers_are_written_out(trained: int, seconds: float, shares: str, times: str) -> None:
    stage = plan.StagePlan("vae", trained, 3_184_896, {"64x64": 4}, 1, 1, 1, seconds)
    shown = "\n".join(explanation.lines([stage], CPU))
    assert f"{trained:,} of 3,184,896 parameters are trained {shares}" in shown
    assert times in shown
    assert "e+" not in shown


def test_a_wrong_target_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [f"data.{split}={ROOT / 'data' / 'posters' / split}" for split in ("train", "validation")]
    changes = ["model=nano", "glyph.lora.targets=[qq]", *folders]
    assert main(["validate", str(ROOT / "recipes" / "glyph_lora.yaml"), *changes, "--device", "cpu"]) == 2
    assert "unknown lora target 'qq'" in capsys.readouterr().err


def test_pairs_take_twice_the_images_and_a_frozen_pass() -> None:
    """Of the same stage on single images: twice the activations, and without gradients once more."""
    kind = stage_kinds()["decoder"]

    def planned(*changes: str) -> plan.StagePlan:
        settings = recipe("decoder_lora", "decoder.compile=false", *changes)
        return plan.plan_stage("decoder", kind, settings, [(64, 64, ())], CAPTIONS, CPU, 1.0, with_phases=False)

    double, pairs = planned("decoder.micro_batch_size=2"), planned("decoder.micro_batch_size=1", "decoder.dpo={}")
    assert double.activations is not None
    assert pairs.activations is not None
    assert double.activations <= pairs.activations < 1.2 * double.activations
    assert double.seconds is not None
    assert pairs.seconds is not None
    assert pairs.seconds > 2.2 * double.seconds, "twice the passes, and those without adapters"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("decoder.lora.base=bfloat16", "decoder.lora.base=auto"),
        ("decoder.other_weight=0", "where text stands"),
        ("decoder.lora.targets=[to_x]", "unknown lora target"),
    ],
)
def test_what_cannot_be_trained_is_no_plan(change: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same errors as when the run begins."""
    folders = [f"data.{split}={ROOT / 'data/posters/validation'}" for split in ("train", "validation")]
    recipe = str(ROOT / "recipes" / "decoder_lora.yaml")
    assert main(["validate", recipe, "model=nano", "--device", "cpu", *folders, change]) == 2
    assert said in capsys.readouterr().err


def test_a_plan_as_json_and_a_preview(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe, folder = str(ROOT / "recipes" / "nano" / "decoder_lora.yaml"), ROOT / "data" / "posters" / "validation"
    changes = [f"data.train={folder}", "data.validation=null", "--device", "cpu"]
    assert main(["validate", recipe, *changes, "--json", "--preview", str(tmp_path / "p.html")]) == 0
    assert (tmp_path / "p.html").read_text().count("<article>") == len(list(folder.glob("*.png")))
    values = json.loads(capsys.readouterr().out)
    assert values["recipe"]["data"]["train"][0]["path"] == str(folder)
    assert values["data"]["train"]["texts"]
    assert values["data"]["validation"] is None
    assert values["stages"][0]["name"] == "decoder"
