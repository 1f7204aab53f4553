"""Frozen linear layers whose matrix is held in 8-bit floating point and made anew for every product.

The type is torch's own float8_e4m3fn (arXiv:2209.05433): 4 bits of exponent, 3 of mantissa, at most 448; a GPU needs no
products in it. torchao's layer of the same kind (0.18) hands autograd the matrix that it has made: one step without
gradient checkpointing then keeps all of them in full, as if the base were not quantized. This one keeps the 8 bits.

R C rows and columns of a matrix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Pack a matrix R C as the bits of its values, uint8, and the scale of each row, float32 R 1.

    Scales are powers of two, the smallest that let a row fit: products with them are exact in every type, so a value
    is off by at most 1/16 of itself, or by 1/1024 of its row's scale where it is nearly zero.
    """
    smallest = weight.detach().float().abs().amax(dim=1, keepdim=True) / LARGEST
    mantissa, _ = torch.frexp(smallest)  # 1/2 for a power of two, less than 1 for all else, 0 for a row of zeros
    # By division, which is exact here; a GPU's powers need not be.
    scale = torch.where(mantissa > 0.5, smallest / mantissa, smallest).masked_fill(mantissa == 0, 1.0)
    return (weight.detach() / scale).to(FLOAT8).view(torch.uint8), scale


def unpack(bits: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the matrix R C of `pack`, in a type that computes."""
    return bits.view(FLOAT8).to(dtype).mul_(scale)


class Float8Linear(nn.Linear):
    """A frozen linear layer in 8 bits. `weight` is uint8, so that no one takes its numbers for the matrix's."""

    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        bits, scale = pack(linear.weight)
        self.weight = nn.Parameter(bits, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        """Multiply by the matrix as the input's type has it."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        output: Tensor = _Float8Product.apply(input, self.weight, self.scale, bias)
        return output


class _Float8Product(torch.autograd.Function):
    """Keeps the 8 bits for the backward pass, where the gradient needs the matrix again."""

    @staticmethod
    def forward(context: Any, input: Tensor, bits: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(bits, scale)
        return F.linear(input, unpack(bits, scale, input.dtype), bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        bits, scale = context.saved_tensors
        return gradient @ unpack(bits, scale, gradient.dtype), None, None, None
