"""glmkit finetune from the command line: a small run from recipe to image, repeating it, and what bad input says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoint
import torch
import yaml
from PIL import Image
from tiny_adapter import apply_adapter

import glmkit
from glmkit import config
from glmkit.cli import main
from glmkit.distributed.work_queue import exclusive
from glmkit.errors import UserError
from glmkit.files import read_json, read_jsonl
from glmkit.models import checkpoint
from glmkit.models.checkpoint.adapter_files import DIFFUSERS_FILE
from glmkit.models.hybrid import HybridModel
from glmkit.posters import grammar, render
from glmkit.training import finetune as training
from glmkit.training.loop import Loop


@pytest.fixture(scope="module")
def posters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An easy set: four posters to learn, of which two are for validation."""
    import random

    folder = tmp_path_factory.mktemp("posters")
    for split, count in (("train", 4), ("validation", 2)):
        (folder / split).mkdir()
        rows = []
        for number in range(count):
            rng = random.Random(number)
            scene = grammar.sample_scene(rng, height=64, width=64)
            render.render(scene).save(folder / split / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "text": grammar.caption(scene, rng)})
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def values(model: Path, posters: Path, output: Path) -> dict[str, Any]:
    """A recipe of a few steps, decoder and autoregressive model, with alpha unlike rank."""
    common = {"steps": 30, "global_batch_size": 4, "learning_rate": 0.02, "validation_every": 15}
    return {
        "model": str(model),
        "output": str(output),
        "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
        "decoder": {**common, "lora": {"rank": 4, "alpha": 6, "targets": ["to_q", "to_out.0", "ff.net.2", "proj_out"]}},
        "autoregressive": {**common, "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "down_proj"]}},
        "samples": {"prompts": ["a poster with 'HI'", "another"], "size": "64x32", "steps": 1},
    }


def write(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def finetune(recipe: Path, *overrides: str) -> int:
    return main(["finetune", str(recipe), *overrides, "--device", "cpu"])


@pytest.fixture(scope="module")
def finished(tiny_model: Path, posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run (`run`) and its recipe (`recipe.yaml`). Read only."""
    folder = tmp_path_factory.mktemp("finetune")
    assert finetune(write(folder / "recipe.yaml", values(tiny_model, posters, folder / "run"))) == 0
    return folder


def test_what_a_run_leaves(finished: Path) -> None:
    run = finished / "run"
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    assert sorted(name for name in files if not name.startswith("tensorboard/")) == [
        ".lock",
        "adapter/README.md",
        "adapter/autoregressive/adapter_config.json",
        "adapter/autoregressive/adapter_model.safetensors",
        "adapter/autoregressive/glmkit_adapter.json",
        "adapter/decoder/adapter_config.json",
        "adapter/decoder/adapter_model.safetensors",
        "adapter/decoder/glmkit_adapter.json",
        f"adapter/decoder/{DIFFUSERS_FILE}",
        *(f"adapter/samples/{number}_{when}.png" for number in (0, 1) for when in ("after", "before")),
        "autoregressive.json",
        "autoregressive.log.jsonl",
        "data.json",
        "decoder.json",
        "decoder.log.jsonl",
        "manifest.json",
        "recipe.yaml",
        "report.html",
        "samples/autoregressive_000000.png",
        "samples/autoregressive_000030.png",
        "samples/decoder_000000.png",
        "samples/decoder_000030.png",
    ]
    assert config.load(run / "recipe.yaml") == config.load(finished / "recipe.yaml")
    manifest = read_json(run / "manifest.json")
    assert manifest["kind"] == "finetune"
    assert manifest["settings"]["decoder.lora.alpha"] == 6
    assert manifest["environment"]["versions"]["torch"]


def test_the_validation_loss_falls(finished: Path) -> None:
    """Before, during and after; the validation images are among those learnt, so it must."""
    for stage in ("decoder", "autoregressive"):
        result, log = read_json(finished / "run" / f"{stage}.json"), read_jsonl(finished / "run" / f"{stage}.log.jsonl")
        losses = {row["step"]: row["validation"]["loss"] for row in log if "validation" in row}
        assert list(losses) == [0, 15, 30]
        assert result["steps"] == 30
        assert (result["before"]["loss"], result["after"]["loss"]) == (losses[0], losses[30])
        assert losses[30] < 0.95 * losses[0]
        assert losses[30] < losses[15] < losses[0]


def test_samples_show_the_training(finished: Path) -> None:
    samples = finished / "run" / "samples"
    sheets = [np.asarray(Image.open(samples / f"decoder_{step}.png")).astype(int) for step in ("000000", "000030")]
    assert sheets[0].shape == (32, 2 * 64, 3), "two images side by side"
    assert np.abs(sheets[0] - sheets[1]).max() > 2


def test_the_adapters_change_the_image(finished: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Through the public path; and the samples are what it draws with the adapters that were trained by then."""
    run = finished / "run"
    shutil.copytree(run / "adapter" / "autoregressive", tmp_path / "first" / "autoregressive")

    def drawn(*adapters: Path) -> np.ndarray:
        command = ["generate", "a poster with 'HI'", "--model", str(tiny_model), "--size", "64x32", "--steps", "1"]
        options = [word for folder in adapters for word in ("--adapter", str(folder))]
        assert main([*command, "--out", str(tmp_path / "a.png"), "--device", "cpu", *options]) == 0
        return np.asarray(Image.open(tmp_path / "a.png")).astype(int)

    def sample(name: str) -> np.ndarray:
        return np.asarray(Image.open(run / "samples" / f"{name}.png")).astype(int)[:, :64]

    plain, first, both = drawn(), drawn(tmp_path / "first"), drawn(run / "adapter")
    expected = {
        "autoregressive_000000": plain,
        "autoregressive_000030": first,
        "decoder_000000": first,
        "decoder_000030": both,
    }
    for name, image in expected.items():
        assert np.abs(sample(name) - image).max() <= 1, name
    for one, other in ((plain, first), (first, both), (plain, both)):
        assert np.abs(one - other).max() > 2


def test_stock_diffusers_loads_the_trained_adapter(finished: Path, tiny_model: Path) -> None:
    draw = torch.Generator().manual_seed(3)
    latents, glyph = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 5, 24, generator=draw)
    prior, times = torch.randint(64, (2, 16), generator=draw), torch.tensor([500.0, 20.0])
    size, crop = torch.full((2, 2), 64.0), torch.zeros(2, 2)
    stock = tiny_checkpoint.diffusers_pipeline(tiny_model).transformer
    stock.load_lora_adapter(finished / "run" / "adapter" / "decoder", weight_name="pytorch_lora_weights.safetensors")
    hybrid = HybridModel(tiny_model)
    with torch.no_grad():
        theirs = stock(latents, glyph, prior, torch.zeros_like(prior, dtype=torch.bool), times, size, crop).sample
        stock.unload_lora()
        given = (latents, glyph, None, prior, torch.zeros(2, dtype=torch.bool), times, size, crop)
        plain = hybrid.decoder(*given)
        apply_adapter(hybrid, finished / "run" / "adapter")
        torch.testing.assert_close(hybrid.decoder(*given), theirs, atol=1e-4, rtol=0)
    assert (plain - theirs).abs().max() > 0.01


def test_the_same_command_again_trains_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "train_stage", None)
    weights = finished / "run" / "adapter" / "decoder" / "adapter_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert main(["finetune", str(finished / "recipe.yaml"), "--device", "cpu", "--json"]) == 0
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    assert json.loads(line)["decoder"] == read_json(finished / "run" / "decoder.json")
    assert "decoder: already done" in shown.err
    assert weights.stat().st_mtime_ns == before


def test_other_settings_need_another_folder(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "run" / "recipe.yaml").read_bytes()
    assert finetune(finished / "recipe.yaml", "decoder.lora.rank=8") == 2
    shown = capsys.readouterr().err
    assert "decoder.lora.rank was 4, now 8" in shown
    assert "another folder" in shown
    assert (finished / "run" / "recipe.yaml").read_bytes() == before


QUICK = ["decoder.steps=6", "decoder.global_batch_size=2", "decoder.save_every=2", "autoregressive=null", "samples={}"]


def test_a_lora_stage_that_was_interrupted_goes_on(
    tiny_model: Path, posters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter of a run that was stopped and repeated is that of one that was not, with dropout and averages."""
    more = [*QUICK, "decoder.lora.dropout=0.2", "decoder.ema=0.5"]
    adapters, step = [], Loop.take_step

    def stopped(self: Loop) -> Any:
        if self.step == 5:
            raise KeyboardInterrupt
        return step(self)

    for name in ("whole", "parts"):
        recipe = write(tmp_path / f"{name}.yaml", values(tiny_model, posters, tmp_path / name))
        if name == "parts":
            with monkeypatch.context() as patch:
                patch.setattr(Loop, "take_step", stopped)
                assert finetune(recipe, *more) == 130
            assert (tmp_path / name / "decoder.state.pt").exists()
            assert (tmp_path / name / "adapter" / "decoder" / "adapter_model.safetensors").exists()
        assert finetune(recipe, *more) == 0
        assert not (tmp_path / name / "decoder.state.pt").exists()
        adapters.append((tmp_path / name / "adapter" / "decoder" / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_a_whole_component(tiny_model: Path, posters: Path, tmp_path: Path) -> None:
    """A stage without lora writes a copy of the model with what it has learnt; the base stays as it was."""
    recipe = values(tiny_model, posters, tmp_path / "run")
    stage = {"steps": 1, "global_batch_size": 2, "learning_rate": 0.01}
    recipe.update(decoder=stage, autoregressive=None, samples={})
    base = {path: path.read_bytes() for path in tiny_model.rglob("*.safetensors")}
    assert finetune(write(tmp_path / "recipe.yaml", recipe)) == 0
    assert {path: path.read_bytes() for path in tiny_model.rglob("*.safetensors")} == base
    model = tmp_path / "run" / "model"
    assert {entry.dtype for entry in checkpoint.stored_tensors(model, "decoder").values()} == {"BF16"}
    new, old = (HybridModel(folder).decoder.state_dict() for folder in (model, tiny_model))
    assert any(not torch.equal(new[name], old[name]) for name in old)


BAD = {
    "unknown key": (["decoder.stepps=3"], "decoder.stepps: unknown key; did you mean 'steps'"),
    "bad override": (["decoder.steps"], "key=value"),
    "unknown model": (["model=nanoo"], "did you mean 'nano'"),
    "missing model": (["model=./no/where"], "does not exist"),
    "unknown target": (["decoder.lora.targets=[to_qq]"], "did you mean 'to_q'"),
    "missing images": (["data.train=TMP/none"], "TMP/none does not exist"),
    "missing image": (["data.train=TMP/gone"], "the caption of 0.png has no image"),
    "corrupt image": (["data.train=TMP/corrupt"], "image TMP/corrupt/0.png cannot be read"),
    "no caption": (["data.train=TMP/uncaptioned"], "image TMP/uncaptioned/new.png has no caption"),
    "odd sample size": (["samples.size=100x64"], "multiples of 32"),
    "empty sample prompt": (["samples.prompts=['']"], "prompt 1 of samples.prompts is empty"),
    "folder in use": (["output=TMP/gone"], "is not a run folder"),
}


def broken_sets(folder: Path, posters: Path) -> None:
    for name in ("gone", "corrupt", "uncaptioned"):
        shutil.copytree(posters / "train", folder / name)
    (folder / "gone" / "0.png").unlink()
    whole = (folder / "corrupt" / "0.png").read_bytes()
    (folder / "corrupt" / "0.png").write_bytes(whole[: len(whole) // 2])
    shutil.copy(folder / "uncaptioned" / "0.png", folder / "uncaptioned" / "new.png")


@pytest.mark.parametrize("name", BAD)
def test_bad_input(
    name: str, tiny_model: Path, posters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, what is wrong and what to type, no traceback; and no run folder, so the corrected command runs."""
    overrides, said = BAD[name]
    broken_sets(tmp_path, posters)
    recipe = write(tmp_path / "recipe.yaml", values(tiny_model, posters, tmp_path / "run"))
    assert finetune(recipe, *(word.replace("TMP", str(tmp_path)) for word in overrides)) == 2
    shown = capsys.readouterr()
    assert said.replace("TMP", str(tmp_path)) in shown.err
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err
    assert not shown.out
    assert not (tmp_path / "run").exists()


def test_bad_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(tmp_path / "none.yaml") == 2
    assert "none.yaml does not exist" in capsys.readouterr().err
    (tmp_path / "twice.yaml").write_text("output: a\nseed: 1\noutput: b\n")
    assert finetune(tmp_path / "twice.yaml") == 2
    shown = capsys.readouterr().err
    assert "key 'output' is given twice" in shown
    assert "line 3" in shown


def test_a_second_training_into_one_output(tiny_model: Path, posters: Path, tmp_path: Path) -> None:
    """It is refused while the first one runs, whose files it would take for those of a killed one."""
    data = {name: str(posters / name) for name in ("train", "validation")}
    stage = {"steps": 1, "global_batch_size": 2, "learning_rate": 0.01, "lora": {"rank": 2, "targets": ["q_proj"]}}
    recipe = {"model": str(tiny_model), "output": str(tmp_path / "run"), "data": data, "autoregressive": stage}
    with exclusive(tmp_path / "run"), pytest.raises(UserError, match="another process is working in"):
        glmkit.finetune(recipe, device="cpu")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
