"""Several linear layers of one input as one product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Fused = tuple[Tensor, Tensor | None]


def fuse(linears: Sequence[nn.Linear]) -> Fused:
    """Return one weight and one bias for all of `linears`, whose own become views of them: no weight is held twice.

    For weights that no longer change or move: a layer that gets another tensor afterwards is not seen.
    """
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
