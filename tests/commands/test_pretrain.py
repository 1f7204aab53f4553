"""glmkit pretrain from the command line: whole components from recipe to image, and what bad input says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
import torch
import yaml
from PIL import Image

from glmkit.cli import main
from glmkit.files import read_json
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import model_folder
from glmkit.training.loop import Loop

STAGE = {"steps": 2, "global_batch_size": 2, "learning_rate": 0.01}


def values(model: Path, posters: Path, output: Path, **stages: Any) -> dict[str, Any]:
    data = {"train": str(posters / "train"), "validation": str(posters / "validation")}
    return {"model": str(model), "output": str(output), "data": data, **stages}


def write(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def pretrain(recipe: Path, *overrides: str) -> int:
    return main(["pretrain", str(recipe), *overrides, "--device", "cpu"])


def test_whole_parts(tiny_model: Path, posters: Path, tmp_path: Path) -> None:
    """All stages write a model folder that diffusers loads; the base stays as it was."""
    recipe = values(
        tiny_model,
        posters,
        tmp_path / "run",
        vae={**STAGE, "crop": 32},
        semantic_vq=STAGE,
        autoregressive=STAGE,
        decoder={**STAGE, "train_glyph": True},
        save_dtype="float32",
    )
    base = {path: path.read_bytes() for path in tiny_model.rglob("*.safetensors")}
    assert pretrain(write(tmp_path / "recipe.yaml", recipe)) == 0
    assert {path: path.read_bytes() for path in tiny_model.rglob("*.safetensors")} == base
    model = tmp_path / "run" / "model"
    assert not (tmp_path / "run" / "adapter").exists()
    trained, before = HybridModel(model), HybridModel(tiny_model)
    for part in ("vae", "semantic_vq", "autoregressive", "decoder", "glyph"):
        new, old = getattr(trained, part).state_dict(), getattr(before, part).state_dict()
        assert any(not torch.equal(new[name], old[name]) for name in old), part
    reference = tiny_checkpoint.diffusers_pipeline(model)
    for name, value in trained.decoder.state_dict().items():
        assert torch.equal(reference.transformer.state_dict()[name], value), name
    assert reference.vae.config.latents_mean == pytest.approx(trained.vae.mean.flatten().tolist())
    assert reference.vae.config.latents_mean != tiny_checkpoint.diffusers_pipeline(tiny_model).vae.config.latents_mean
    head = trained.autoregressive.lm_head.weight
    assert torch.equal(reference.vision_language_encoder.lm_head.weight, head)


def test_weights_are_stored_where_and_as_asked(tiny_model: Path, posters: Path, tmp_path: Path) -> None:
    """Also by several recipes, one after the other; never over a model that was there before."""
    recipe = values(tiny_model, posters, tmp_path / "run", decoder=STAGE, save=str(tmp_path / "mine"))
    path = write(tmp_path / "recipe.yaml", recipe)
    assert pretrain(path) == 0
    assert {entry.dtype for entry in checkpoint.stored_tensors(tmp_path / "mine", "decoder").values()} == {"BF16"}
    assert not (tmp_path / "run" / "model").exists()
    assert pretrain(path, f"output={tmp_path / 'more'}", "save_dtype=float32") == 0
    assert {entry.dtype for entry in checkpoint.stored_tensors(tmp_path / "mine", "decoder").values()} == {"F32"}
    shutil.copytree(tiny_model, tmp_path / "theirs")
    assert pretrain(path, f"output={tmp_path / 'other'}", f"save={tmp_path / 'theirs'}") == 2


def test_phases_train_one_model_and_finished_ones_are_left_alone(
    tiny_model: Path, posters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second begins with what the first wrote; running the recipe again changes nothing."""
    recipe = values(tiny_model, posters, tmp_path / "run", save=str(tmp_path / "mine"), autoregressive=STAGE)
    recipe["model"], recipe["save_dtype"] = str(tmp_path / "mine"), "float32"
    shutil.copytree(tiny_model, tmp_path / "mine")
    model_folder.claim(tmp_path / "mine", model_folder.PRETRAINING)
    recipe["phases"] = {"first": {"autoregressive.ema": 0.9}, "second": {"autoregressive.steps": 3}}
    path = write(tmp_path / "recipe.yaml", recipe)
    assert pretrain(path, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert results["second"]["autoregressive"]["before"] == results["first"]["autoregressive"]["after"]
    weights = (tmp_path / "mine" / "vision_language_encoder" / "model.safetensors").read_bytes()
    assert pretrain(path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == results
    assert (tmp_path / "mine" / "vision_language_encoder" / "model.safetensors").read_bytes() == weights


BAD = {
    "unknown key": (["vae.stepps=3"], "vae.stepps: unknown key; did you mean 'steps'"),
    "new nano": (["model=nano", "architecture=recipes/nano/pretrain/architecture.yaml"], "nano exists"),
    "missing architecture": (["model=TMP/new", "architecture=TMP/none.yaml"], "TMP/none.yaml does not exist"),
    "large crop": (["vae.crop=128"], "vae.crop=64"),
    "labels of files": (["decoder={%s, train_glyph: true, character_weight: 1}"], "character_weight needs to know"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(
    name: str, tiny_model: Path, posters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, what is wrong and what to type, no traceback; and no run folder, so the corrected command runs."""
    overrides, said = BAD[name]
    stage = ", ".join(f"{key}: {value}" for key, value in STAGE.items())
    recipe = write(tmp_path / "recipe.yaml", values(tiny_model, posters, tmp_path / "run", vae={**STAGE, "crop": 32}))
    overrides = [word.replace("TMP", str(tmp_path)).replace("%s", stage) for word in overrides]
    assert pretrain(recipe, *overrides) == 2
    shown = capsys.readouterr()
    assert said.replace("TMP", str(tmp_path)) in shown.err
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err
    assert not shown.out
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def learnt_edits(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished full training of both stages on a few edits and posters, and its recipe."""
    folder = tmp_path_factory.mktemp("edits")
    posters = {"count": 4, "validation": 2, "size": "128x128", "workers": 1}
    stage = {"steps": 6, "global_batch_size": 4, "learning_rate": 2e-3}
    recipe = {
        "model": str(tiny_model),
        "output": str(folder / "run"),
        "save_dtype": "float32",
        "data": {"edits": posters, "posters": posters},
        "autoregressive": stage,
        "decoder": {**stage, "train_glyph": True, "text_weight": 1.0},
    }
    path = write(folder / "recipe.yaml", recipe)
    assert pretrain(path) == 0
    return folder / "run", path


def test_edits_are_learnt_and_the_model_edits(learnt_edits: tuple[Path, Path], tmp_path: Path) -> None:
    """From recipe to edited image; the validation losses of edits are reported apart."""
    run, _ = learnt_edits
    for stage in ("autoregressive", "decoder"):
        result = read_json(run / f"{stage}.json")
        assert result["after"]["edit"] != result["before"]["edit"]
    Image.new("RGB", (128, 128), "red").save(tmp_path / "red.png")
    edit = ["edit", str(tmp_path / "red.png"), "Make the background blue.", "--out", str(tmp_path / "blue.png")]
    assert main([*edit, "--model", str(run / "model"), "--size", "128x128", "--steps", "2"]) == 0
    assert Image.open(tmp_path / "blue.png").size == (128, 128)


def test_a_killed_training_on_edits_continues_to_the_same_weights(
    learnt_edits: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which steps are edits is a function of seed and step."""
    run, recipe = learnt_edits
    target = tmp_path / "again"
    step = Loop.take_step

    def killed(self: Loop) -> Any:
        if self.context.name == "decoder" and self.step == 4:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "take_step", killed)
        assert pretrain(recipe, f"output={target}", "decoder.save_every=2") == 130
    assert pretrain(recipe, f"output={target}", "decoder.save_every=2") == 0
    for part in ("transformer", "text_encoder", "vision_language_encoder"):
        for path in (run / "model" / part).glob("*.safetensors"):
            assert path.read_bytes() == (target / "model" / part / path.name).read_bytes(), path.name


def test_a_size_that_the_model_would_scale_is_refused(
    learnt_edits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(learnt_edits[1], f"output={tmp_path / 'run'}", "data.edits.size=64x64") == 2
    assert "data.edits.size=128x128" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
