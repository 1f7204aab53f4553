"""Layers that are computed again: the same gradients from less memory, with adapters, their dropout, and compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_adapter
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from glmkit.config import Lora
from glmkit.models import checkpoint
from glmkit.training import lora

TARGETS = {
    "decoder": ("to_q", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    "autoregressive": ("q_proj", "o_proj", "gate_up_proj", "down_proj"),
}


def loss_of(module: Any, component: str, sources: bool) -> Tensor:
    output: Tensor
    if component == "autoregressive":
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(60, (2, 24), generator=draw)
        output = module(ids, torch.arange(24).expand(3, 2, 24))
        return output.square().mean()
    *given, size, crop = tiny_adapter.decoder_inputs()
    clean, prior = torch.ones_like(given[0]), torch.ones_like(given[3])
    written = module.cache_condition_images([(clean, prior, (64, 64))]) if sources else None
    output = module(*given, size, crop, written)
    return output.square().mean()


def gradients(model: Path, component: str, every: int, sources: bool, compile_: bool) -> tuple[list[Tensor], int]:
    """Of all adapters, random ones, with dropout; and how many tensors the backward pass was left."""
    torch.manual_seed(0)
    module: Any = checkpoint.load_component(model, component)
    wrapped = lora.inject(module, Lora(rank=2, dropout=0.3, targets=TARGETS[component]))
    for name, value in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.3)
    stack: Any = module.language_model if component == "autoregressive" else module
    stack.gradient_checkpointing = every
    if compile_:
        for block in stack.layers if component == "autoregressive" else stack.transformer_blocks:
            block.compile(backend="aot_eager", dynamic=False)
    kept: list[Tensor] = []
    wrapped.train()
    torch.manual_seed(1)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(module, component, sources)
    loss.backward()
    return [value.grad for value in wrapped.parameters() if value.grad is not None], len(kept)


@pytest.mark.parametrize(("component", "sources"), [("decoder", False), ("decoder", True), ("autoregressive", False)])
def test_the_same_gradients_from_less(component: str, sources: bool, tiny_model: Path) -> None:
    expected, everything = gradients(tiny_model, component, 0, sources, False)
    assert len(expected) == 2 * 2 * len(TARGETS[component])
    all_again, least = gradients(tiny_model, component, 1, sources, False)
    second_again, less = gradients(tiny_model, component, 2, sources, False)
    assert least < less < everything
    for one, other, third in zip(expected, all_again, second_again, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
        assert one.abs().max() > 0


@pytest.mark.parametrize("component", ["decoder", "autoregressive"])
def test_compiled_layers(component: str, tiny_model: Path) -> None:
    """Dropout of compiled layers draws other numbers, so that only what is recomputed is compared."""
    expected, _ = gradients(tiny_model, component, 0, False, True)
    found, _ = gradients(tiny_model, component, 1, False, True)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
