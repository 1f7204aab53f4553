"""Linear layers in 8-bit floating point: values within the type's error, products of exactly these values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from glmkit.training.float8 import Float8Linear, pack, unpack

ROWS = torch.logspace(-12, 3, 24, base=10)[:, None]  # rows of very different sizes


def uneven(columns: int = 40) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return ROWS * torch.randn(len(ROWS), columns, generator=draw)


def e4m3() -> Tensor:
    """Every finite value that 4 bits of exponent and 3 of mantissa can say, by the definition (bias 7, no infinity)."""
    normal = [2.0 ** (exponent - 7) * (1 + part / 8) for exponent in range(1, 16) for part in range(8)]
    subnormal = [2.0**-6 * part / 8 for part in range(8)]
    return torch.tensor([*subnormal, *normal[:-1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_value_is_the_nearest_that_the_type_has(dtype: torch.dtype) -> None:
    weight = uneven().to(dtype)
    bits, scale = pack(weight)
    assert bits.dtype == torch.uint8
    assert bits.shape == weight.shape
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5)), "powers of two"
    largest = weight.float().abs().amax(dim=1, keepdim=True)
    assert ((largest / scale <= 448) & (largest / scale > 224)).all()
    found = unpack(bits, scale, torch.float32)
    off = (weight.float()[..., None].abs() - scale[..., None] * e4m3()).abs()
    torch.testing.assert_close((weight.float() - found).abs(), off.amin(dim=-1), rtol=0, atol=0)
    assert ((weight.float() - found).abs() <= torch.maximum(weight.float().abs() / 16, scale / 1024)).all()
    assert torch.equal(unpack(bits, scale, torch.bfloat16).float(), found), "exact in every type that computes"


def test_zeros_and_numbers_that_the_type_has_stay() -> None:
    weight = torch.stack([torch.zeros(2 * 127 - 2), torch.cat([e4m3(), -e4m3()[1:-1]])])
    assert torch.equal(unpack(*pack(weight), torch.float32), weight)


@pytest.mark.parametrize("bias", [False, True])
def test_products_and_gradients_are_those_of_the_values(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 20, bias=bias).requires_grad_(False)
    small = Float8Linear(linear).requires_grad_(False)
    values = nn.Linear(12, 20, bias=bias).requires_grad_(False)
    values.weight.copy_(unpack(small.weight, small.scale, torch.float32))
    if bias:
        values.bias.copy_(linear.bias)
    results = []
    for layer in (small, values):
        given = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        product = layer(given)
        product.square().sum().backward()
        results.append((product.detach(), given.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(values.weight, linear.weight)


def test_autograd_keeps_no_matrix_that_computes() -> None:
    """As a library's layers do, whose base then takes as much as one that is not quantised."""
    small = Float8Linear(nn.Linear(64, 64))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        small(torch.randn(1, 64, requires_grad=True))
    assert [tensor.dtype for tensor in kept if tensor.numel() > 64] == [torch.uint8]


def test_a_cast_of_the_model_leaves_the_values() -> None:
    small = Float8Linear(nn.Linear(16, 8))
    before = unpack(small.weight, small.scale, torch.float32)
    small.to(torch.bfloat16)
    assert small.weight.dtype == torch.uint8
    assert torch.equal(unpack(small.weight, small.scale, torch.float32), before)
