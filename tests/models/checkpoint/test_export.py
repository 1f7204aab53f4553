"""Adapters for other programs, by what those programs make of them; and models with adapters in their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_adapter import apply_adapter, decoder_inputs, make_adapter

from glmkit.cli import main
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel


@torch.no_grad()
def weighted(model: Path, adapter: Path | str) -> torch.Tensor:
    hybrid = HybridModel(model)
    apply_adapter(hybrid, adapter)
    velocity: torch.Tensor = hybrid.decoder(*decoder_inputs())
    return velocity


@torch.no_grad()
def reference(model: Path, folder: Path, name: str) -> torch.Tensor:
    transformer = tiny_checkpoint.diffusers_pipeline(model).transformer
    transformer.load_lora_adapter(folder, weight_name=name)
    latents, glyph, _, prior, drop, timestep, size, crop = decoder_inputs()
    try:
        return torch.as_tensor(
            transformer(latents, glyph, prior, drop[:, None].expand_as(prior), timestep, size, crop).sample
        )
    finally:
        transformer.unload_lora()


def test_reference_diffusers_reads_an_export(tiny_model: Path, tmp_path: Path) -> None:
    """Alpha unlike rank, and a weight."""
    make_adapter(tiny_model, tmp_path / "a", "decoder", alpha=5)
    given = f"{tmp_path / 'a'}:0.5"
    assert main(["export", given, "--format", "diffusers", "--out", str(tmp_path / "d.safetensors")]) == 0
    theirs = reference(tiny_model, tmp_path, "d.safetensors")
    torch.testing.assert_close(theirs, weighted(tiny_model, given), atol=1e-4, rtol=0)
    assert (theirs - weighted(tiny_model, tmp_path / "a")).abs().max() > 0.01


def test_comfyui_reads_an_export(tiny_model: Path, tmp_path: Path) -> None:
    """ComfyUI's rule, written out: W + alpha / rank * B A for every `diffusion_model.LAYER` of the file."""
    make_adapter(tiny_model, tmp_path / "a", "decoder", alpha=5)
    given = f"{tmp_path / 'a'}:0.5"
    assert main(["export", given, "--format", "comfyui", "--out", str(tmp_path / "c.safetensors")]) == 0
    file = load_file(tmp_path / "c.safetensors")
    decoder = checkpoint.load_component(tiny_model, "decoder")
    read: set[str] = set()
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            layer = f"diffusion_model.{name.removesuffix('.weight')}"
            keys = [f"{layer}.{key}" for key in ("lora_A.weight", "lora_B.weight", "alpha")]
            if keys[0] in file:
                down, up, alpha = (file[key] for key in keys)
                weight.add_(alpha.item() / down.shape[0] * up @ down)
                read |= set(keys)
        assert read == set(file)
        torch.testing.assert_close(decoder(*decoder_inputs()), weighted(tiny_model, given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("component", ["autoregressive", "glyph"])
def test_peft_reads_an_export_on_the_published_classes(component: str, tiny_model: Path, tmp_path: Path) -> None:
    """Without a mapping of names: what it computes is what merged weights do; ranks and alphas differ by layer."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import GlmImageForConditionalGeneration, T5EncoderModel

    layer = {"autoregressive": "0.self_attn.q_proj", "glyph": "0.layer.0.SelfAttention.q"}[component]
    targets = ["q_proj", "down_proj", "q", "wo"]
    patterns = {"rank_pattern": {layer: 2}, "alpha_pattern": {layer: 5}, "use_rslora": True}
    settings = LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, **patterns)
    adapted = get_peft_model(checkpoint.load_component(tiny_model, component), settings)
    adapted.save_pretrained(str(tmp_path / "a" / component))
    given = f"{tmp_path / 'a'}:0.5"
    assert main(["export", given, "--format", "peft", "--out", str(tmp_path / "p")]) == 0
    ours, again = (tmp_path / name for name in ("m", "n"))
    for adapter, out in ((given, ours), (str(tmp_path / "p"), again)):
        assert main(["merge", str(tiny_model), "--adapter", adapter, "--out", str(out)]) == 0
    load, folder = {
        "autoregressive": (GlmImageForConditionalGeneration.from_pretrained, "vision_language_encoder"),
        "glyph": (T5EncoderModel.from_pretrained, "text_encoder"),
    }[component]
    tokens = torch.arange(24).reshape(2, 12)
    wrapped = PeftModel.from_pretrained(load(tiny_model / folder), str(tmp_path / "p" / component))
    outputs = []
    for model in (wrapped.merge_and_unload(), load(ours / folder), load(again / folder), load(tiny_model / folder)):
        with torch.no_grad():
            outputs.append(model.eval()(input_ids=tokens)[0])
    for other in outputs[1:3]:
        torch.testing.assert_close(other, outputs[0], atol=1e-6, rtol=1e-6)
    assert (outputs[3] - outputs[0]).abs().max() > 0.01


def test_what_cannot_be_exported(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_adapter(tiny_model, tmp_path / "ar", "autoregressive")
    out = ["--format", "comfyui", "--out", str(tmp_path / "c.safetensors")]
    assert main(["export", str(tmp_path / "ar"), *out]) == 2
    assert "does not adapt the decoder" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), *out]) == 2
    assert "does not exist" in capsys.readouterr().err
    make_adapter(tiny_model, tmp_path / "a", "decoder")
    assert main(["export", str(tmp_path / "a"), "--format", "comfyui", "--out", str(tmp_path / "c.bin")]) == 2
    assert "c.safetensors" in capsys.readouterr().err
    config = tmp_path / "a" / "decoder" / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    assert main(["export", str(tmp_path / "a"), *out]) == 2
    assert "use_dora" in capsys.readouterr().err
    assert not list(tmp_path.glob("*c.*"))
    assert not list(tmp_path.glob(".*"))


def test_a_merged_model_is_the_model_with_its_adapters(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two adapters with weights, both components; diffusers loads the folder; it is a base of its own."""
    make_adapter(tiny_model, tmp_path / "a", "decoder")
    make_adapter(tiny_model, tmp_path / "a", "autoregressive")
    make_adapter(tiny_model, tmp_path / "b", "decoder", seed=1)
    out = tmp_path / "merged"
    chosen = ["--adapter", str(tmp_path / "a"), "--adapter", f"{tmp_path / 'b'}:0.5"]
    command = ["merge", str(tiny_model), *chosen, "--out", str(out)]
    assert main(command) == 0
    hybrid = HybridModel(tiny_model)
    for given in (tmp_path / "a", f"{tmp_path / 'b'}:0.5"):
        apply_adapter(hybrid, given)
    for component in ("decoder", "autoregressive", "semantic_vq", "vae"):
        ours = getattr(hybrid, component).state_dict()
        theirs = checkpoint.load_component(out, component).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), component
    transformer = tiny_checkpoint.diffusers_pipeline(out).transformer
    assert torch.equal(transformer.proj_out.weight, hybrid.decoder.proj_out.weight)
    images = []
    for name, options in (("added", [str(tiny_model), *chosen]), ("merged", [str(out)])):
        drawn = ["generate", "a 'HI'", "--size", "64x32", "--steps", "1", "--device", "cpu", "--model", *options]
        assert main([*drawn, "--out", str(tmp_path / f"{name}.png")]) == 0
        images.append(np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
    capsys.readouterr()
    assert main(command) == 2
    assert "merged exists" in capsys.readouterr().err
    assert main([*command[:1], str(out), *command[2:-1], str(tmp_path / "again")]) == 2
    assert "another model" in capsys.readouterr().err
    assert not list(tmp_path.glob("*again*"))


def test_merged_weights_are_stored_as_the_model_stores_them(tiny_copy: Path, tmp_path: Path) -> None:
    checkpoint.save_component(tiny_copy, "decoder", checkpoint.load_component(tiny_copy, "decoder"), torch.bfloat16)
    make_adapter(tiny_copy, tmp_path / "a", "decoder")
    assert main(["merge", str(tiny_copy), "--adapter", str(tmp_path / "a"), "--out", str(tmp_path / "m")]) == 0
    assert {entry.dtype for entry in checkpoint.stored_tensors(tmp_path / "m", "decoder").values()} == {"BF16"}
    hybrid = HybridModel(tiny_copy)
    apply_adapter(hybrid, tmp_path / "a")
    stored = checkpoint.load_component(tmp_path / "m", "decoder").get_parameter("proj_out.weight")
    assert torch.equal(stored, hybrid.decoder.proj_out.weight.bfloat16().float())
