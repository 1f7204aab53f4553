"""Matrices in 8 and 4 bits: rounded to the nearest values of their formats, in float64; and their products."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glmkit.models import checkpoint, quantized
from glmkit.models.hybrid import HybridModel
from glmkit.models.quantized import (
    LowRank,
    PackedLinear,
    PackedMatrix,
    from_words,
    join,
    matrix_names,
    quantize,
    to_words,
)

FORMATS = ("e4m3", "int8", "int4")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def numbers(format: str) -> Tensor:
    """All values of a format, float64. e4m3: 4 bits of exponent with bias 7, 3 of mantissa, at most 448."""
    if format != "e4m3":
        largest = {"int8": 127, "int4": 7}[format]
        return torch.arange(-largest - 1, largest + 1, dtype=torch.float64)
    positive = [m * 2.0**-9 for m in range(8)]
    positive += [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)]
    return torch.tensor([-one for one in positive[:0:-1]] + positive, dtype=torch.float64)


@pytest.mark.parametrize("format", FORMATS)
def test_values_are_the_nearest(format: str) -> None:
    """Scales are what the largest value of their row or group needs; every value is the nearest of those it could be.

    A scale of 4 bits is rounded to bfloat16.
    """
    weight, size = random(24, 256) * torch.logspace(-6, 3, 24)[:, None], 128 if format == "int4" else 256
    matrix = PackedMatrix.pack(weight, format)
    groups = weight.double().unflatten(1, (-1, size))
    grid = numbers(format)
    expected = groups.abs().amax(dim=-1) / {"e4m3": 448, "int8": 127, "int4": 7}[format]
    assert matrix.scale.shape == expected.shape
    torch.testing.assert_close(matrix.scale.double(), expected, rtol=2**-8 if format == "int4" else 1e-6, atol=0)
    scale = matrix.scale.double()[..., None]
    nearest = ((groups / scale)[..., None] - grid).abs().amin(dim=-1)
    ours = matrix.unpack().double().unflatten(1, (-1, size)) / scale
    torch.testing.assert_close((ours - groups / scale).abs(), nearest, rtol=0, atol=1e-4)
    assert matrix.nbytes == 24 * 256 * (1 if format != "int4" else 0.5) + matrix.scale.nbytes


@pytest.mark.parametrize("format", ["e4m3", "int8", "int8 by groups", "int4"])
def test_little_memory_is_taken_beside(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of the size of the matrix but the packed one; some rows at a time give what all at once do."""
    weight = random(300, 1024).bfloat16()
    weight[290, 0] = 100 if "groups" in format else 1
    made: list[int] = []
    whole = PackedMatrix.pack(weight, format.split()[0])
    assert (whole.scale.shape[1] > 1) == (format in ("int8 by groups", "int4"))

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            made.extend(one.untyped_storage().nbytes() for one in tree_leaves(result) if isinstance(one, Tensor))
            return result

    monkeypatch.setattr(quantized, "NUMBERS_AT_ONCE", 7 * 1024)
    with Sizes():  # type: ignore[no-untyped-call]
        matrix = PackedMatrix.pack(weight, format.split()[0])
    assert torch.equal(matrix.values.view(torch.uint8), whole.values.view(torch.uint8))
    assert torch.equal(matrix.scale, whole.scale)
    assert matrix.scale.stride() == whole.scale.stride()
    beside = [size for size in made if size not in (matrix.values.nbytes, matrix.scale.nbytes, weight.nbytes)]
    assert max(beside) <= 7 * 1024 * 8


def test_the_change_of_an_adapter_comes_along(tiny_model: Path) -> None:
    """To the device of the packed matrix, from the CPU that the component was read on."""
    decoder = HybridModel.load(tiny_model).decoder
    name = matrix_names("decoder", decoder)[0]
    outputs, inputs = decoder.get_submodule(name).weight.shape  # type: ignore[misc]
    change = LowRank(random(4, int(inputs)), random(int(outputs), 4))
    quantize("decoder", decoder, "8bit", torch.device("meta"), {name: change})
    matrix = cast(PackedLinear, decoder.get_submodule(name)).matrix
    assert matrix.change is not None
    assert {one.device.type for one in (matrix.values, matrix.change.a, matrix.change.b)} == {"meta"}


@pytest.mark.parametrize("format", FORMATS)
def test_extreme_rows(format: str) -> None:
    """A row of zeros stays one; the largest value of a row is met, whichever its sign."""
    weight = torch.zeros(3, 128)
    weight[1, 5], weight[2, 7] = 3.0, -1e-3
    torch.testing.assert_close(PackedMatrix.pack(weight, format).unpack(), weight, rtol=2**-8, atol=0)


def test_an_outlier_gets_a_scale_of_its_own() -> None:
    """All rows are grouped then; one value of 60 among ones would leave the others two numbers."""
    weight = random(4, 512)
    weight[1, 300] = 60
    matrix = PackedMatrix.pack(weight, "int8")
    assert matrix.scale.shape == (4, 4)
    error = (matrix.unpack() - weight).abs().amax(dim=0)
    assert error[:256].max() < 0.02
    assert PackedMatrix.pack(weight[2:], "int8").scale.shape == (2, 1)


@pytest.mark.parametrize("inputs", [128, 256, 96, 320])
@pytest.mark.parametrize("bits", [8, 4])
def test_words(bits: int, inputs: int) -> None:
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, inputs), generator=torch.Generator().manual_seed(1))
    words = to_words(values, bits)
    assert (words.dtype, words.shape) == (torch.int16, (5, inputs * bits // 16))
    assert torch.equal(from_words(words, bits).long(), values)


def test_the_order_of_words() -> None:
    """Word 3 of a group of 128: inputs 3 and 67 in 8 bits, 3, 35, 67 and 99 in 4, from the low bits on."""
    values = torch.full((1, 256), -1)
    values[0, [128 + 3, 128 + 35, 128 + 67, 128 + 99]] = torch.tensor([1, 2, 3, 4])
    assert int(to_words(values, 8)[0, 64 + 3]) & 0xFFFF == 129 | 131 << 8
    assert int(to_words(values, 4)[0, 32 + 3]) & 0xFFFF == 9 | 10 << 4 | 11 << 8 | 12 << 12


@pytest.mark.parametrize("format", FORMATS)
def test_products(format: str) -> None:
    """With bias and change, against float64; layers of one input as one product give the same."""
    x = random(2, 3, 128, seed=9)
    layers, expected = [], []
    for seed in range(3):
        bias = random(16, seed=seed + 20)
        changes = LowRank(random(4, 128, seed=seed + 30), random(16, 4, seed=seed + 40)) if seed != 1 else None
        padded = None if changes is None else changes.to(torch.device("cpu"), torch.float32)
        packed = PackedMatrix.pack(random(16, 128, seed=seed), format, bias)
        layer = PackedLinear(PackedMatrix(format, packed.values, packed.scale, bias, padded))
        whole = packed.unpack().double() + (0 if changes is None else changes.b.double() @ changes.a.double())
        layers.append(layer)
        expected.append(x.double() @ whole.T + bias.double())
        torch.testing.assert_close(layer(x).double(), expected[-1], rtol=1e-5, atol=1e-4)
    joined = join(layers)
    assert joined.change is not None
    assert len(joined.change.a) == 32
    torch.testing.assert_close(joined.product(x).double(), torch.cat(expected, dim=-1), rtol=1e-5, atol=1e-4)
    assert layers[2].matrix.values.data_ptr() == joined.values[32:].data_ptr()
    torch.testing.assert_close(layers[2](x).double(), expected[2], rtol=1e-5, atol=1e-4)


def test_which_matrices(tiny_model: Path) -> None:
    """Those of the layers and the head; not norms, embeddings, the decoder's modulation, and its projections."""
    attention = [f"self_attn.{one}_proj" for one in "qkvo"]
    blocks = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
    of_layers = {
        "autoregressive": ("language_model.layers", (*attention, "mlp.gate_up_proj", "mlp.down_proj")),
        "decoder": ("transformer_blocks", blocks),
    }
    for component, (layers, names) in of_layers.items():
        expected = {f"{layers}.{number}.{name}" for number in range(2) for name in names}
        expected |= {"lm_head"} if component == "autoregressive" else set()
        assert set(matrix_names(component, checkpoint.new_component(tiny_model, component))) == expected
