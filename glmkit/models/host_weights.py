"""Weights that stay in the CPU's memory, since a GPU reads little of them: the AR model's embedding, of which a prompt
takes a few hundred rows, and the decoder's modulation, which is computed once per image.

Shapes as in `glmkit.models`; K inputs of a linear layer.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING, MODULATION = "language_model.embed_tokens", ".norm1.linear"


class HostEmbedding(nn.Module):
    """An embedding with its table on the CPU, and the first `near` rows, `weight`, on the device.

    A single new token of each sequence is one of these: what is generated are prior tokens, the first ids.
    """

    def __init__(self, embedding: nn.Embedding, near: int, device: torch.device) -> None:
        super().__init__()
        self.table = _held(embedding.weight, device)
        self.weight = nn.Parameter(self.table[:near].to(device), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return ... D of the ids of prompts B T, or of new tokens B or B 1."""
        if ids.ndim == 1 or ids.shape[-1] == 1:
            return F.embedding(ids, self.weight)
        return F.embedding(ids.to(self.table.device), self.table).to(ids.device)


class HostLinear(nn.Module):
    """A linear layer whose matrix comes to the device for every product."""

    def __init__(self, linear: nn.Linear, device: torch.device) -> None:
        super().__init__()
        self.matrix = _held(linear.weight, device)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return ... N from ... K."""
        return F.linear(x, self.matrix.to(x.device, non_blocking=True), self.bias)


def matrix_of(layer: nn.Module) -> Tensor:
    """Return the values of a linear layer's matrix, wherever they are held, to read or to change in place."""
    return layer.matrix if isinstance(layer, HostLinear) else cast(nn.Linear, layer).weight.data


def keep_on_host(module: nn.Module, near: int, device: torch.device) -> None:
    """Replace the embedding, with `near` rows on the device, and every modulation of a module that is on the CPU."""
    for name, child in list(module.named_modules()):
        if name == EMBEDDING and isinstance(child, nn.Embedding):
            module.set_submodule(name, HostEmbedding(child, near, device))
        elif name.endswith(MODULATION) and isinstance(child, nn.Linear):
            module.set_submodule(name, HostLinear(child, device))


def _held(weight: Tensor, device: torch.device) -> Tensor:
    """Return the values of a weight on the CPU, for a GPU in memory that it copies from at full speed."""
    return weight.data.pin_memory() if device.type == "cuda" else weight.data
