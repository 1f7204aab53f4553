"""Random adapters of the toy model, and inputs that show what they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glmkit.models import checkpoint
from glmkit.models.checkpoint import adapters
from glmkit.models.checkpoint.adapter_files import read
from glmkit.models.hybrid import HybridModel

TARGETS = {"decoder": ["to_q", "to_v", "proj_out"], "autoregressive": ["q_proj", "gate_up_proj"]}


def make_adapter(model: Path, folder: Path, component: str, seed: int = 0, alpha: int = 6) -> torch.nn.Module:
    """A random LoRA of `component`, saved as training saves it; returns the wrapped module."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    wrapped: Any = get_peft_model(
        checkpoint.load_component(model, component),
        LoraConfig(r=3, lora_alpha=alpha, target_modules=TARGETS[component], init_lora_weights=False),
    )
    wrapped.save_pretrained(str(folder / component))
    adapters.write_base(folder / component, component, model)
    model_with_adapter: torch.nn.Module = wrapped.eval()
    return model_with_adapter


def apply_adapter(hybrid: HybridModel, text: Path | str) -> None:
    """Merge an adapter, `DIR` or `DIR:WEIGHT`, into the weights, checked before anything is changed."""
    adapter = adapters.Adapter.parse(str(text))
    adapters.check_adapter(hybrid.folder, adapter.folder)
    for component in read(adapter.folder):
        setattr(hybrid, component, adapters.merge_adapter(getattr(hybrid, component), component, adapter))


def decoder_inputs(seed: int = 3) -> tuple[Any, ...]:
    """What the decoder's forward takes, without a mask of the glyphs."""
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(2, 4, 8, 8, generator=draw),
        torch.randn(2, 5, 24, generator=draw),
        None,
        torch.randint(64, (2, 16), generator=draw),
        torch.zeros(2, dtype=torch.bool),
        torch.tensor([500.0, 20.0]),
        torch.full((2, 2), 64.0),
        torch.zeros(2, 2),
    )
