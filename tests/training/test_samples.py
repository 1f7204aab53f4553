"""Sample images: those that generation draws, and no trace of them in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glmkit.config import Lora, Samples
from glmkit.files import write_json
from glmkit.generation.pipeline import generate_batch
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import lora, offload
from glmkit.training.samples import Sampler, requests_of

SAMPLES = Samples(prompts=("a red poster with 'ONE'", "another"), size="64x32", steps=2)


def test_samples_are_generations(tiny_model: Path, tmp_path: Path) -> None:
    """Dropout rests while they are drawn and acts again afterwards; the same step gives the same file."""
    hybrid = HybridModel(tiny_model)
    expected = [np.asarray(image) for image in generate_batch(hybrid, requests_of(tiny_model, SAMPLES))]
    lora.inject(hybrid.decoder, Lora(dropout=0.9, targets=("to_q", "ff.net.2")))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in hybrid.decoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    hybrid.decoder.train()
    sampler = Sampler.for_stage("decoder", hybrid, SAMPLES, tmp_path)
    files = []
    for step in (3, 4):
        sampler(step)
        files.append((tmp_path / f"decoder_00000{step}.png").read_bytes())
    assert files[0] == files[1]
    assert all(module.training for module in hybrid.decoder.modules())
    assert not any(module.training for part in (hybrid.autoregressive, hybrid.glyph) for module in part.modules())
    with torch.no_grad():
        for name, parameter in hybrid.decoder.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    sampler(5)
    sheet = np.asarray(Image.open(tmp_path / "decoder_000005.png")).astype(int)
    assert np.abs(sheet - np.concatenate(expected, axis=1)).max() <= 1
    changed = np.asarray(Image.open(tmp_path / "decoder_000003.png")).astype(int)
    assert np.abs(changed - sheet).max() > 2


def test_training_goes_on_after_a_sample(tiny_model: Path, tmp_path: Path) -> None:
    """Generation runs in inference mode; nothing that it leaves behind may enter a gradient."""
    hybrid = HybridModel(tiny_model)
    Sampler.for_stage("autoregressive", hybrid, SAMPLES, tmp_path)(0)
    wrapped = lora.inject(hybrid.autoregressive, Lora(targets=("q_proj",)))
    ids, positions = torch.randint(60, (1, 9)), torch.arange(9).expand(3, 1, 9)
    wrapped(ids, positions).float().square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in wrapped.parameters() if p.requires_grad)


@pytest.mark.parametrize(("stage", "has_room"), [("autoregressive", False), ("decoder", False), ("decoder", True)])
def test_a_low_memory_run_samples_with_one_component_at_a_time(
    stage: str, has_room: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the one that is trained, also when none fits as a whole; the images are the same to the last byte."""
    monkeypatch.setattr(offload, "has_room", lambda *_: has_room)
    together: list[set[str]] = []
    for low_memory in (False, True):
        hybrid = HybridModel(tiny_model)
        getattr(hybrid, stage)

        def load(component: str, module: torch.nn.Module, hybrid: HybridModel = hybrid) -> torch.nn.Module:
            together.append({component, *vars(hybrid)} & set(checkpoint.COMPONENTS) - {stage})
            return module

        hybrid.on_load = load
        Sampler.for_stage(stage, hybrid, SAMPLES, tmp_path / str(low_memory), low_memory)(0)
        assert set(vars(hybrid)) & set(checkpoint.COMPONENTS) == {stage}
    several = {frozenset(one) for one in together[len(together) // 2 :] if len(one) > 1}
    assert several <= {frozenset({"glyph", "decoder"})}  # the texts are read beside the decoder
    assert max(map(len, together)) == 3 - (stage == "decoder")
    files = [next((tmp_path / name).iterdir()).read_bytes() for name in ("False", "True")]
    assert files[0] == files[1]


@pytest.mark.parametrize("given", [True, False])
def test_what_a_recipe_does_not_say(tiny_copy: Path, given: bool) -> None:
    write_json(tiny_copy / "glmkit.json", {"defaults": {"size": "96x64", "steps": 3, "guidance": 4.0}})
    requests = requests_of(tiny_copy, SAMPLES if given else Samples(prompts=("a", "b")))
    assert [request.seed for request in requests] == [0, 1]
    settings = {(request.width, request.height, request.steps, request.guidance) for request in requests}
    assert settings == {(64, 32, 2, 4.0) if given else (96, 64, 3, 4.0)}
