"""Frozen linear layers whose products are made in 8-bit floating point, forward and backward.

The result sums over inputs, the gradient over outputs, and scales must stand outside of a sum (`glmkit.models.float8`).
So the matrix is held twice, with a scale per output, and transposed with one per input: as much as in bfloat16. What it
multiplies, inputs and gradients alike, is rounded at each product with a scale per token, as in torchao's "rowwise"
recipe of float8 training. Sums are not: adapters learn from products of rounded values, whose errors have no direction.

Shapes: M tokens; N outputs, K inputs of a layer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models import float8
from glmkit.models.devices import triton_runs
from glmkit.training.float8 import FLOAT8, pack, unpack

UNITS = 16  # a GPU multiplies so many values of a row at once


def fits(linear: nn.Linear) -> bool:
    """Tell whether the sizes of a layer are multiples of what a GPU multiplies at once."""
    return linear.in_features % UNITS == 0 and linear.out_features % UNITS == 0


class Float8ComputeLinear(nn.Linear):
    """A frozen linear layer that computes in 8 bits; `weight` is uint8 N x K, `transposed` K x N.

    Where no GPU multiplies them (`emulated`), the same rounded values are multiplied in float32.
    """

    scale: Tensor
    transposed: Tensor
    transposed_scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        device = linear.weight.device
        self.emulated = not float8.multiplies_on(device)
        bits, scale = pack(linear.weight)
        self.weight = nn.Parameter(bits, requires_grad=False)
        self.register_buffer("scale", scale)
        for name, value in zip(("transposed", "transposed_scale"), pack(linear.weight.t().contiguous()), strict=True):
            self.register_buffer(name, value)
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        """Return ... N from ... K, in the input's type."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        back = (self.transposed, self.transposed_scale)
        output: Tensor = _Product.apply(input, self.weight, self.scale, bias, *back, self.emulated)
        return output


class _Product(torch.autograd.Function):
    """Keeps the transposed matrix for the backward pass, and no input."""

    @staticmethod
    def forward(
        context: Any,
        input: Tensor,
        bits: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        transposed: Tensor,
        transposed_scale: Tensor,
        emulated: bool,
    ) -> Tensor:
        context.save_for_backward(transposed, transposed_scale)
        context.emulated = emulated
        return product(input, bits, scale, bias, emulated)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        transposed, scale = context.saved_tensors
        return product(gradient, transposed, scale, None, context.emulated), *[None] * 6


def product(x: Tensor, bits: Tensor, scale: Tensor, bias: Tensor | None, emulated: bool) -> Tensor:
    """Return ... N in the type of x ... K: both rounded to e4m3; the matrix N x K is that of `pack`."""
    values, x_scale = _cast(x, emulated)
    if emulated:
        y = F.linear(values.float() * x_scale, unpack(bits, scale.float(), torch.float32))
        return (y if bias is None else y + bias.float()).to(x.dtype)
    return float8.product(values, x_scale, bits.view(FLOAT8), scale.float(), bias, x.dtype)


def _cast(x: Tensor, emulated: bool) -> tuple[Tensor, Tensor]:
    """Cast tokens; torch.compile makes one kernel of the operations, and elsewhere Triton has one."""
    if emulated or torch.compiler.is_compiling() or not _has_kernels(x.device):
        return float8.cast_rows(x)
    from glmkit.models.decoder.gpu_float8 import cast_tokens

    with torch.cuda.device_of(x):  # kernels go to the current device
        return cast_tokens(x)


_has_kernels = cache(triton_runs)
