"""Too little memory is an error that says what to change, and what that would save."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from glmkit import config
from glmkit.cli import main
from glmkit.training import explanation, finetune, out_of_memory, plan, units
from glmkit.training.objectives import stage_kinds

CPU = torch.device("cpu")


def recipe(model: Path, posters: Path, *changes: str) -> config.Recipe:
    values = {
        "model": str(model),
        "output": str(posters.parent / "out"),
        "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
        "decoder": {
            "lora": {"rank": 2, "targets": ["to_q"]},
            "steps": 2,
            "global_batch_size": 4,
            "learning_rate": 1e-3,
        },
        "samples": {"prompts": ["a red poster"], "size": "64x64"},
    }
    return config.from_dict(config.values.override(values, changes))


@pytest.mark.parametrize(
    ("fails_in", "phase", "tries"),
    [
        ("take_step", "training", ["decoder.gradient_checkpointing=1", "decoder.micro_batch_size=2"]),
        ("_sample", "samples", ["samples.prompts=[]"]),
        ("precompute", "precomputing", []),
    ],
)
def test_the_error_names_the_cheapest_changes(
    fails_in: str, phase: str, tries: list[str], tiny_model: Path, posters: Path
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
    scope: dict[str, object] = {"error": error}
    exec(f"def {fails_in}(): raise error", scope)
    with pytest.raises(torch.OutOfMemoryError):
        scope[fails_in]()  # type: ignore[operator]
    settings = recipe(tiny_model, posters)
    images = finetune.FINETUNING.load_datasets(settings)[0]
    told = out_of_memory.explain(error, "decoder", settings, images, CPU, stage_kinds())
    assert told.what == f"decoder: out of memory while {phase}"
    assert "More." not in str(told)
    changes = re.findall(r"(\w+\.\S+=\S+)(?: output=NEW_FOLDER)? \(about ([\d.]+ [GM]iB) less\)", str(told.fix))
    assert [change for change, _ in changes][: len(tries)] == tries
    assert bool(changes) == bool(tries)
    if phase == "training":
        before, after = (plan.plan(one, images, CPU)[0] for one in (settings, recipe(tiny_model, posters, tries[0])))
        assert changes[0][1] == units.size(before.bytes - after.bytes)


def test_a_stage_that_has_no_memory_left_is_no_traceback(
    tiny_model: Path,
    posters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def take_step(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("glmkit.training.loop.Loop.take_step", take_step)
    path = tmp_path / "recipe.yaml"
    path.write_text(config.to_yaml(recipe(tiny_model, posters, f"output={tmp_path / 'run'}", "samples.prompts=[]")))
    assert main(["finetune", str(path), "--device", "cpu"]) == 2
    assert "decoder: out of memory while training" in capsys.readouterr().err


def test_the_plan_counts_all_that_a_stage_does(tiny_model: Path, posters: Path) -> None:
    """Samples bring the other transformer; less of it in a low-memory run, whose blocks may wait elsewhere."""
    settings = recipe(tiny_model, posters, "eval.suite=text-render")
    images = finetune.FINETUNING.load_datasets(settings)[0]
    (told,) = plan.plan(settings, images, CPU)
    assert set(told.phases) == {"precomputing", "saving", "samples", "evaluation"}
    assert told.peak == max(told.bytes, *told.phases.values())
    shown = "\n".join(explanation.lines([told], CPU))
    assert f"samples {units.size(told.phases['samples'])}" in shown
    assert f"at most {units.size(told.peak)}" in shown
    (low,) = plan.plan(recipe(tiny_model, posters, "decoder.lora.base=fp8"), images, CPU)
    assert low.phases["samples"] < told.phases["samples"]
    assert "loading" in low.phases
    (without,) = plan.plan(recipe(tiny_model, posters, "samples.prompts=[]"), images, CPU)
    assert "samples" not in without.phases
