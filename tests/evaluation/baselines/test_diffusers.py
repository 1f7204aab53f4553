"""diffusers:NAME: the images of diffusers' own pipeline, presets, and what is no text-to-image pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_sd3
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.evaluation import baselines
from glmkit.evaluation.baselines import diffusers
from glmkit.evaluation.generated_images import generate_images
from glmkit.evaluation.plan import GenerationSettings
from glmkit.records import Prompt

PROMPTS = [Prompt(id=name, prompt=f"a sign '{name}'", texts=(name,)) for name in ("fox", "owl")]


def published(folder: Path, kind: str, latents: int = 128) -> Path:
    """The small files of a published pipeline."""
    files = {
        "model_index.json": {"_class_name": kind},
        "transformer/config.json": {"sample_size": latents},
        "vae/config.json": {"block_out_channels": [128, 256, 512, 512]},
    }
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd3.build(tmp_path_factory.mktemp("tiny") / "sd3")


def test_images_are_the_pipelines_own(sd3: Path, tmp_path: Path) -> None:
    """Each is what diffusers' pipeline generates alone with its seed; a repeated call generates nothing."""
    drawing = GenerationSettings(f"diffusers:{sd3}", (), 2, height=32, width=48, steps=2, guidance=7.0, dtype="float32")
    rows = generate_images(tmp_path, PROMPTS, drawing, "cpu", {}, baseline=baselines.find(drawing.model))
    assert [row.error for row in rows] == [None] * 4
    assert all((row.peak_memory_gib or 0) > 0.01 for row in rows)
    pipeline = DiffusionPipeline.from_pretrained(sd3)
    pipeline.set_progress_bar_config(disable=True)
    for row in rows[1:3]:
        expected = pipeline(
            row.prompt,
            height=32,
            width=48,
            num_inference_steps=2,
            guidance_scale=7.0,
            generator=torch.Generator().manual_seed(row.seed),
        ).images[0]
        with Image.open(tmp_path / str(row.file)) as image:
            assert image.tobytes() == expected.tobytes()
            text: dict[str, str] = image.text  # type: ignore[attr-defined]
            assert text["steps"] == "2"
            assert "sampling" not in text
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()}
    generate_images(tmp_path, PROMPTS, drawing, "cpu", {}, baseline=baselines.find(drawing.model))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()} == times


@pytest.mark.parametrize(("name", "steps", "guidance"), [("sd3", 28, 7.0), ("sd3.5-medium", 40, 4.5)])
def test_presets(name: str, steps: int, guidance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset and the hub id that it stands for are the same."""
    downloaded: list[str] = []
    folder = published(tmp_path, "StableDiffusion3Pipeline")

    def download(hub_id: str) -> str:
        downloaded.append(hub_id)
        return str(folder)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    for place in (name, diffusers.PRESETS[name].hub_id):
        assert diffusers.load(place).defaults == baselines.BaselineDefaults(1024, 1024, steps, guidance)
    assert downloaded == [diffusers.PRESETS[name].hub_id] * 2


def test_without_a_preset_the_class_and_the_configs_decide(tmp_path: Path) -> None:
    small = published(tmp_path / "sd3", "StableDiffusion3Pipeline", latents=64)
    assert diffusers.load(str(small)).defaults == baselines.BaselineDefaults(512, 512, 28, 7.0)
    flux = published(tmp_path / "flux", "FluxPipeline")
    assert diffusers.load(str(flux)).defaults == baselines.BaselineDefaults(1024, 1024, 28, 3.5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("diffusers:", "names no model"),
        ("diffuser:x/y", "did you mean 'diffusers'"),
        ("diffusers:sd35", "did you mean 'sd3"),
        ("diffusers:./nowhere", "does not exist"),
        ("diffusers:EMPTY", "no model_index.json"),
        ("diffusers:FOREIGN", "names no pipeline of diffusers"),
        ("diffusers:LIST", "must be an object"),
        ("diffusers:UNCONDITIONAL", "makes no images from prompts"),
    ],
)
def test_what_cannot_draw(model: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "EMPTY").mkdir()
    published(tmp_path / "FOREIGN", "PipelineOfSomebody")
    (published(tmp_path / "LIST", "FluxPipeline") / "model_index.json").write_text("[]")
    published(tmp_path / "UNCONDITIONAL", "DDPMPipeline")
    kind, _, place = model.partition(":")
    named = f"{kind}:{tmp_path / place}" if place.isupper() else model
    assert main(["eval", "--suite", "text-render", "--model", named, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("ocr_log")
def test_edits_and_broken_weights(sd3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = ["eval", "--run", str(run), "--device", "cpu", "--limit", "1", "--size", "64x64", "--steps", "1"]
    assert main([*command, "--suite", "nano-edit", "--model", f"diffusers:{sd3}"]) == 2
    assert "nano-edit asks for edits" in capsys.readouterr().err
    assert not run.exists()
    broken = Path(shutil.copytree(sd3, tmp_path / "broken"))
    shutil.rmtree(broken / "vae")
    model = f"diffusers:{broken}"
    settings = GenerationSettings(model, (), 1, height=64, width=64, steps=1, guidance=1.5, dtype="float32")
    with pytest.raises(UserError, match="cannot be loaded"):
        generate_images(tmp_path, PROMPTS, settings, "cpu", {}, baseline=baselines.find(model))
