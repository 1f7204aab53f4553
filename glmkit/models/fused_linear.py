"""Several linear layers of one input as one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models.quantized import PackedLinear, PackedMatrix, join

Fused = tuple[Tensor, Tensor | None] | PackedMatrix


def fuse(layers: Sequence[nn.Module]) -> Fused:
    """Return one weight and one bias for all of `layers`, whose own become views of them: no weight is held twice.

    Packed layers give one packed matrix. For weights that no longer change or move: a layer that gets another tensor
    afterwards is not seen.
    """
    packed = [layer for layer in layers if isinstance(layer, PackedLinear)]
    if len(packed) == len(layers):
        return join(packed)
    linears = [cast(nn.Linear, layer) for layer in layers]
    weight = torch.cat([linear.weight.data for linear in linears])
    sizes = [linear.out_features for linear in linears]
    for linear, view in zip(linears, weight.split(sizes), strict=True):
        linear.weight.data = view
    biases = [linear.bias.data for linear in linears if linear.bias is not None]
    if not biases:
        return weight, None
    bias = torch.cat(biases)
    for linear, view in zip(linears, bias.split(sizes), strict=True):
        linear.bias.data = view
    return weight, bias


def project(x: Tensor, fused: Fused) -> Tensor:
    """Return x Wᵀ + bias by what `fuse` gave."""
    return fused.product(x) if isinstance(fused, PackedMatrix) else F.linear(x, *fused)
