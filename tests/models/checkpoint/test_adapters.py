"""Adapters: merged like PEFT applies them, several at once, and refused on a model they are not for."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_checkpoint
import torch
from tiny_adapter import apply_adapter, decoder_inputs, make_adapter

from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.models.checkpoint import adapters
from glmkit.models.hybrid import HybridModel


@torch.no_grad()
def test_merged_decoder_equals_the_wrapped_one(tiny_model: Path, tmp_path: Path) -> None:
    wrapped = make_adapter(tiny_model, tmp_path / "a", "decoder")
    hybrid = HybridModel(tiny_model)
    plain = hybrid.decoder(*decoder_inputs())
    apply_adapter(hybrid, tmp_path / "a")
    merged = hybrid.decoder(*decoder_inputs())
    torch.testing.assert_close(merged, wrapped(*decoder_inputs()), atol=1e-5, rtol=1e-5)
    assert (merged - plain).abs().max() > 0.01
    assert not [name for name, _ in hybrid.decoder.named_modules() if "lora" in name]


@torch.no_grad()
def test_reference_diffusers_applies_the_same_adapter(tiny_model: Path, tmp_path: Path) -> None:
    wrapped = make_adapter(tiny_model, tmp_path / "a", "decoder", alpha=3)
    reference = tiny_checkpoint.diffusers_pipeline(tiny_model).transformer
    reference.load_lora_adapter(
        tmp_path / "a" / "decoder", prefix="base_model.model", weight_name="adapter_model.safetensors"
    )
    latents, glyph, _, prior, drop, timestep, size, crop = decoder_inputs()
    theirs = reference(latents, glyph, prior, drop[:, None].expand_as(prior), timestep, size, crop).sample
    reference.unload_lora()
    torch.testing.assert_close(theirs, wrapped(*decoder_inputs()), atol=1e-4, rtol=0)


def test_two_adapters_add_up(tiny_model: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        make_adapter(tiny_model, tmp_path / name, "autoregressive", seed)
    weight = "language_model.layers.0.self_attn.q_proj.weight"

    def change(*names: str) -> torch.Tensor:
        hybrid = HybridModel(tiny_model)
        before = hybrid.autoregressive.state_dict()[weight].clone()
        for name in names:
            apply_adapter(hybrid, tmp_path / name)
        after: torch.Tensor = hybrid.autoregressive.state_dict()[weight]
        return after.sub(before)

    torch.testing.assert_close(change("a", "b"), change("a") + change("b"), atol=1e-5, rtol=1e-5)


def test_one_part_of_an_adapter(tiny_model: Path, tmp_path: Path) -> None:
    """Given by its own folder, with a weight of its own."""
    for component in ("autoregressive", "decoder"):
        make_adapter(tiny_model, tmp_path / "a", component)
    names = {
        "autoregressive": "language_model.layers.0.self_attn.q_proj.weight",
        "decoder": "transformer_blocks.0.attn1.to_q.weight",
    }

    def changes(*text: str) -> list[torch.Tensor]:
        hybrid = HybridModel(tiny_model)
        components = [getattr(hybrid, component) for component in names]
        before = [
            component.state_dict()[name].clone() for component, name in zip(components, names.values(), strict=True)
        ]
        for one in text:
            apply_adapter(hybrid, f"{tmp_path}/a/{one}")
        after = [getattr(hybrid, component).state_dict()[name] for component, name in names.items()]
        return [new - old for new, old in zip(after, before, strict=True)]

    whole, alone, weighted = changes(""), changes("autoregressive"), changes("autoregressive", "decoder:0.5")
    assert torch.equal(alone[0], whole[0])
    assert not alone[1].any()
    assert whole[1].any()
    assert torch.equal(weighted[0], whole[0])
    torch.testing.assert_close(weighted[1], whole[1] / 2, atol=1e-6, rtol=1e-5)


def test_the_file_stays_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    """Weights are mapped from the file: merging into them must not write through."""
    before = {
        name: value.clone() for name, value in checkpoint.load_component(tiny_model, "decoder").state_dict().items()
    }
    make_adapter(tiny_model, tmp_path / "a", "decoder")
    apply_adapter(HybridModel(tiny_model), tmp_path / "a")
    after = checkpoint.load_component(tiny_model, "decoder").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_broken_adapters(tiny_model: Path, tmp_path: Path) -> None:
    hybrid = HybridModel(tiny_model)
    with pytest.raises(UserError, match="does not exist"):
        apply_adapter(hybrid, tmp_path / "none")
    with pytest.raises(UserError, match="not an adapter folder"):
        apply_adapter(hybrid, tiny_model)
    make_adapter(tiny_model, tmp_path / "a", "decoder")
    path = tmp_path / "a" / "decoder" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        apply_adapter(hybrid, tmp_path / "a")


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 0.7, -1.5])
def test_a_weight_scales_the_change(tiny_model: Path, tmp_path: Path, weight: float) -> None:
    make_adapter(tiny_model, tmp_path / "a", "autoregressive")
    name = "language_model.layers.0.self_attn.q_proj.weight"

    def changed(text: str) -> torch.Tensor:
        hybrid = HybridModel(tiny_model)
        before = hybrid.autoregressive.state_dict()[name].clone()
        apply_adapter(hybrid, text)
        after: torch.Tensor = hybrid.autoregressive.state_dict()[name]
        return after.sub(before)

    whole = changed(str(tmp_path / "a"))
    torch.testing.assert_close(changed(f"{tmp_path / 'a'}:{weight}"), weight * whole, atol=1e-5, rtol=1e-4)
    assert whole.abs().max() > 0.01


def test_how_weights_are_typed(tmp_path: Path) -> None:
    assert adapters.Adapter.parse("runs/a") == adapters.Adapter(Path("runs/a"), 1.0)
    assert adapters.Adapter.parse("runs/a:0.8") == adapters.Adapter(Path("runs/a"), 0.8)
    assert adapters.Adapter.parse("runs/a:-1") == adapters.Adapter(Path("runs/a"), -1.0)
    for drive in (r"C:\adapters\mine", "C:/adapters/mine"):
        assert adapters.Adapter.parse(drive) == adapters.Adapter(Path(drive), 1.0)
        assert adapters.Adapter.parse(f"{drive}:0.8") == adapters.Adapter(Path(drive), 0.8)
    (tmp_path / "a:2").mkdir()
    assert adapters.Adapter.parse(str(tmp_path / "a:2")) == adapters.Adapter(tmp_path / "a:2", 1.0)
    for wrong in ("runs/a:", "runs/a:much", "runs/a:nan", "runs/a:inf"):
        with pytest.raises(UserError, match=r"--adapter runs/a:0\.8"):
            adapters.Adapter.parse(wrong)
