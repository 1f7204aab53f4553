"""Layers that compute in 8 bits: products and gradients are those of rounded values, scaled token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from glmkit.models import float8
from glmkit.training.float8 import pack, unpack
from glmkit.training.float8_compute import Float8ComputeLinear, fits, product

TOKENS, INPUTS, OUTPUTS = 6, 32, 48
ROWS = torch.logspace(-6, 3, TOKENS)[:, None]  # tokens of very different sizes


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(INPUTS, OUTPUTS, bias=bias).requires_grad_(False)


def rounded(x: Tensor) -> Tensor:
    """Each row as e4m3 has it, with the row's largest value at 448, in float64."""
    scale = x.abs().amax(dim=-1, keepdim=True) / 448
    return (x / scale).to(torch.float8_e4m3fn).double() * scale.double()


def matrix(weight: Tensor) -> Tensor:
    """Each row as e4m3 has it, with a power of two as scale, in float64."""
    return unpack(*pack(weight), torch.float64)


def off(found: Tensor, expected: Tensor) -> float:
    """The largest error of a token, as a share of its size."""
    return float(((found.double() - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


@pytest.mark.parametrize("bias", [False, True])
def test_products_and_gradients(bias: bool) -> None:
    """By the formula, in float64: the gradient rounds the matrix along its other side."""
    exact, x = linear(bias), (ROWS * random(2, TOKENS, INPUTS)).requires_grad_()
    gradient = random(2, TOKENS, OUTPUTS, seed=1)
    layer = Float8ComputeLinear(exact)
    y = layer(x)
    y.backward(gradient)
    assert x.grad is not None
    expected = rounded(x.detach()) @ matrix(exact.weight).T + (exact.bias.double() if bias else 0)
    assert off(y.detach(), expected) < 1e-5
    back = rounded(gradient) @ matrix(exact.weight.T.contiguous()).T
    assert off(x.grad, back) < 1e-5
    plain = gradient @ exact.weight
    assert 1e-3 < (x.grad - plain).norm() / plain.norm() < 0.06


def test_a_token_is_the_same_alone() -> None:
    """Its scale is its own; sums may round with the number of tokens, values may not."""
    layer, x = Float8ComputeLinear(linear()), ROWS * random(TOKENS, INPUTS)
    torch.testing.assert_close(layer(x[2:3]), layer(x)[2:3], rtol=1e-6, atol=1e-7)
    assert torch.equal(layer(torch.zeros(1, INPUTS)), layer.bias[None])


def test_autograd_keeps_the_8_bits_alone() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        Float8ComputeLinear(linear())(random(TOKENS, INPUTS).requires_grad_())
    assert [(tensor.dtype, tuple(tensor.shape)) for tensor in kept] == [
        (torch.uint8, (INPUTS, OUTPUTS)),
        (torch.float32, (INPUTS, 1)),
    ]


def test_compiled_whole() -> None:
    """Forward and backward, without a break in the graph."""
    layer, given = Float8ComputeLinear(linear()), random(TOKENS, INPUTS)
    results = []
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        x = given.clone().requires_grad_()
        y = call(x)
        y.sum().backward()
        results.append((y.detach(), x.grad))
    torch.testing.assert_close(*results)


def test_a_cast_of_the_model_leaves_the_values() -> None:
    layer, x = Float8ComputeLinear(linear(bias=False)), random(TOKENS, INPUTS)
    before = layer(x)
    layer.to(torch.bfloat16)
    assert torch.equal(layer(x), before)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_which_layers_fit() -> None:
    assert fits(linear())
    assert not fits(nn.Linear(INPUTS, 40))
    assert not fits(nn.Linear(40, OUTPUTS))


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_by_the_units_of_a_gpu(compiled: bool) -> None:
    """Forward and backward in bfloat16: the emulated products, but for the rounding of the result."""
    device = torch.device("cuda")
    if not float8.multiplies_on(device):
        pytest.skip("a GPU without 8-bit products")
    exact = nn.Linear(1280, 320).requires_grad_(False).to(device, torch.bfloat16)
    layer = Float8ComputeLinear(exact).to(device)
    assert not layer.emulated
    x = random(2, 77, 1280).to(device, torch.bfloat16).requires_grad_()
    gradient = random(2, 77, 320, seed=1).to(device, torch.bfloat16)
    y = (torch.compile(layer) if compiled else layer)(x)
    y.backward(gradient)
    expected = product(x.detach().float(), layer.weight, layer.scale, exact.bias, emulated=True)
    back = product(gradient.float(), layer.transposed, layer.transposed_scale, None, emulated=True)
    assert x.grad is not None
    for ours, theirs in ((y, expected), (x.grad, back)):
        assert (ours.float() - theirs).norm() / theirs.norm() < 0.005
