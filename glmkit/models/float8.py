"""Products in 8-bit floating point, e4m3 (arXiv:2209.05433), with a scale per token and one per output.

Scales stand outside of the sums: y[m, n] = sum over k of x[m, k] w[n, k], times the scales of m and of n. Those of
tokens are made anew for every product, so that there is nothing to calibrate.

Shapes: M tokens; N outputs, K inputs.
"""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
LARGEST: float = torch.finfo(FLOAT8).max
PER_LARGEST = 1 / LARGEST
ADA = (8, 9)  # compute capability from which a GPU multiplies e4m3


def multiplies(x: Tensor) -> bool:
    """Tell whether products in e4m3 run where x is, for its type and width."""
    return x.is_cuda and x.dtype == torch.bfloat16 and x.shape[-1] % 16 == 0 and has_products(x.device)


def multiplies_on(device: torch.device) -> bool:
    """Tell whether a device multiplies e4m3."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= ADA


@cache
def has_products(device: torch.device) -> bool:
    """Tell whether a device multiplies e4m3; stderr says once what is done where it does not."""
    if multiplies_on(device):
        return True
    where = "of the decoder " if device.type == "cuda" else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    print(f"{name} multiplies no 8-bit numbers: low precision saves memory {where}here, not time", file=sys.stderr)
    return False


def cast_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x ... K in e4m3, and the scale of each row, float32 ... 1: its largest value / 448; 1 for zeros.

    By a product with 1 / 448 rounded to float32: PyTorch divides by a number so on a GPU, but not on a CPU.
    """
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True) * PER_LARGEST
    scale = scale.masked_fill(scale == 0, 1.0)
    return (x / scale).to(FLOAT8), scale


def product(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return ... N in `dtype` from x ... K and its scale ... 1, by a weight N x K and its scale N x 1, on a GPU.

    The quick accumulation of the matrix units is used: with it the error of a product is that of its rounded inputs.
    """
    y_MN = torch._scaled_mm(
        x.flatten(0, -2),
        weight.t(),
        x_scale.flatten(0, -2),
        weight_scale.t(),
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=True,
    )
    return y_MN.unflatten(0, x.shape[:-1])
