"""The card beside an adapter: what it tells readers to type loads the adapters of a run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from tiny_checkpoint import CODES

from glmkit import config
from glmkit.cli import main
from glmkit.files import read_json, write_json
from glmkit.models.checkpoint.adapters import Adapter
from glmkit.models.checkpoint.export import write_merged_model
from glmkit.reporting.model_card import BaseModel, write_model_card
from glmkit.training import finetune as training

PROMPTS = ["a poster | with \"HI\" and 'X' in ``` and <b>", "another: one"]
HUB_ID = "zai-org/GLM-Image"
DEFAULTS = (1024, 1024, 30, 1.5)


def recipe(model: Path, posters: Path, output: Path) -> dict[str, Any]:
    """All three stages, two steps each."""
    common = {"steps": 2, "global_batch_size": 2, "learning_rate": 0.05}
    targets = {
        "autoregressive": ["q_proj", "down_proj", "lm_head"],
        "decoder": ["to_q", "ff.net.2"],
        "glyph": ["q", "v"],
    }
    return {
        "model": str(model),
        "output": str(output),
        "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
        **{name: {**common, "lora": {"rank": 2, "alpha": 6, "targets": layers}} for name, layers in targets.items()},
        "samples": {"prompts": PROMPTS, "size": "64x64", "steps": 1},
    }


@pytest.fixture(scope="module")
def finished(tiny_model: Path, posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, with the recipe beside it. Read only."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(tiny_model, posters, folder / "my run")))
    assert main(["finetune", str(folder / "recipe.yaml"), "--device", "cpu"]) == 0
    return folder / "my run"


@pytest.fixture
def downloaded(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `adapter` in the working directory, as `hf download` leaves it; its card names the public model."""
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "adapter" / "README.md").unlink()
    assert write_model_card(copy, BaseModel(HUB_ID, *DEFAULTS))
    monkeypatch.chdir(tmp_path)
    (copy / "adapter").rename(tmp_path / "adapter")
    return tmp_path / "adapter"


def code_blocks(folder: Path, language: str) -> list[str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    return [code for _, code in re.findall(rf"^(`{{3,}}){language}\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL)]


def commands(folder: Path, model: Path) -> list[list[str]]:
    """The calls of glmkit in the card's shell blocks."""
    text = "".join(code_blocks(folder, "bash")).replace("\\\n", "")
    lines = [shlex.split(line) for line in text.splitlines()]
    assert ["hf", "download", "OWNER/NAME", "--local-dir", "adapter"] in lines
    return [[str(model) if word == HUB_ID else word for word in line[1:]] for line in lines if line[:1] == ["glmkit"]]


def run_python(code: str, model: Path, adapter: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for word, put in ((HUB_ID, str(model)), ("OWNER/NAME", adapter), ('"cuda"', '"cpu"'), ("bfloat16", "float32")):
        code = code.replace(word, put)
    exec(code, names)
    return names


@pytest.fixture
def tokens_only(tiny_copy: Path) -> Path:
    """The toy model, whose random AR model would end an image early in transformers, kept to prior tokens."""
    folder = tiny_copy / "vision_language_encoder"
    vocabulary = read_json(folder / "config.json")["text_config"]["vision_vocab_size"]
    settings = read_json(folder / "generation_config.json")
    write_json(folder / "generation_config.json", settings | {"suppress_tokens": list(range(CODES, vocabulary))})
    return tiny_copy


def first_sample(folder: Path) -> np.ndarray:
    return np.asarray(Image.open(folder / "samples" / "0_after.png")).astype(int)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_the_card_of_a_run(finished: Path) -> None:
    card = ModelCard.load(finished / "adapter" / "README.md")
    assert card.data.base_model is None, "a local folder is no hub id"
    assert [entry["text"] for entry in card.data.widget] == PROMPTS
    assert all((finished / "adapter" / entry["output"]["url"]).is_file() for entry in card.data.widget)
    assert str(finished.parent) not in card.content, "paths of the author's machine"
    assert str(Path.home()) not in card.content


def test_its_glmkit_code_gives_the_first_sample(downloaded: Path, tiny_model: Path) -> None:
    command = commands(downloaded, tiny_model)[0]
    assert command[:2] == ["generate", PROMPTS[0]]
    assert main([*command, "--device", "cpu"]) == 0
    assert np.abs(pixels("image.png") - first_sample(downloaded)).max() <= 1
    Path("image.png").unlink()
    code = next(block for block in code_blocks(downloaded, "python") if "import glmkit" in block)
    run_python(code.replace("adapters=", 'device="cpu", adapters='), tiny_model, "adapter")
    assert np.abs(pixels("image.png") - first_sample(downloaded)).max() <= 1


def test_its_diffusers_code_loads_every_layer(downloaded: Path, tokens_only: Path, tmp_path: Path) -> None:
    """What PEFT and diffusers add to each layer is what glmkit merges into it."""
    from diffusers import GlmImagePipeline
    from peft.tuners.lora import LoraLayer

    code = next(block for block in code_blocks(downloaded, "python") if "diffusers" in block)
    pipe = run_python(code, tokens_only, str(downloaded))["pipe"]
    assert pixels("image.png").shape == (64, 64, 3)
    write_merged_model(tokens_only, [Adapter(downloaded)], tmp_path / "merged")
    merged = GlmImagePipeline.from_pretrained(tmp_path / "merged")
    changed = 0
    for component in ("vision_language_encoder", "transformer", "text_encoder"):
        expected = getattr(merged, component).state_dict()
        layers = [
            (name.removeprefix("base_model.model."), layer)
            for name, layer in getattr(pipe, component).named_modules()
            if isinstance(layer, LoraLayer)
        ]
        assert layers, component
        for name, layer in layers:
            (adapter,) = layer.active_adapters
            change = layer.get_delta_weight(adapter)
            assert change.abs().max() > 1e-4, name
            base = layer.get_base_layer().weight
            torch.testing.assert_close(base + change, expected[f"{name}.weight"], atol=1e-5, rtol=1e-4)
            changed += 1
    saved = [load_file(path) for path in downloaded.glob("*/adapter_model.safetensors")]
    assert changed == sum(len(tensors) // 2 for tensors in saved)


def test_its_comfyui_command_writes_a_file(downloaded: Path, tiny_model: Path) -> None:
    command = commands(downloaded, tiny_model)[-1]
    assert main(command) == 0
    file = load_file(command[-1])
    assert command[-1] == "copy.safetensors"
    assert all(key.startswith("diffusion_model.") for key in file)


def test_its_recipe_is_a_recipe(downloaded: Path, finished: Path) -> None:
    (text,) = code_blocks(downloaded, "yaml")
    shared, original = config.from_dict({**yaml.safe_load(text), "output": "x"}), config.load(finished / "recipe.yaml")
    assert (shared.stages, shared.samples) == (original.stages, original.samples)
    assert shared.data.train[0].path == "train"


def test_a_card_that_was_edited_stays(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command, with nothing left to train, writes a missing card, and leaves an edited one."""
    monkeypatch.setattr(training, "train_stage", None)
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    card, report = run / "adapter" / "README.md", run / "report.html"
    settings = read_json(run / "manifest.json")
    settings["settings"]["output"] = str(run)
    write_json(run / "manifest.json", settings)
    command = ["finetune", str(finished.parent / "recipe.yaml"), f"output={run}", "--device", "cpu"]
    card.unlink()
    assert main([*command, "license=apache-2.0"]) == 0
    assert "stays as it is" not in capsys.readouterr().err
    assert ModelCard.load(card).data.license == "apache-2.0"
    for change in (lambda text: text.replace("LoRA", "My LoRA"), lambda text: text + "\nMore.\n", lambda _: "Mine.\n"):
        edited = change(card.read_text(encoding="utf-8"))
        card.write_text(edited, encoding="utf-8")
        report.unlink()
        assert main(command) == 0
        assert card.read_text(encoding="utf-8") == edited
        assert f"{card} was edited and stays as it is" in capsys.readouterr().err
        assert report.exists()


def test_whole_components_get_no_card(tiny_model: Path, posters: Path, tmp_path: Path) -> None:
    values = recipe(tiny_model, posters, tmp_path / "run") | {"glyph": None, "samples": {}}
    del values["decoder"]["lora"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["finetune", str(tmp_path / "recipe.yaml"), "--device", "cpu"]) == 0
    assert (tmp_path / "run" / "adapter" / "autoregressive").is_dir()
    assert not (tmp_path / "run" / "adapter" / "README.md").exists()
