"""Matrices in 8 or 4 bits: how values are packed, which matrices of a model are, and what they multiply.

    e4m3  8-bit floating point (arXiv:2209.05433); one float32 scale per row, that of its largest value / 448
    int8  whole numbers; one float32 scale per row, that of its largest value / 127, or one per group of inputs where
          the row has an outlier
    int4  whole numbers; one bfloat16 scale per group of inputs, that of its largest value / 7

Biases, norms, embeddings, and what stands around the layers, such as the decoder's modulation, stay as they are.
Whole numbers are held as 16-bit words (`to_words`): a GPU reads those at once, and unpacks them in place.

Shapes: M tokens; N outputs, K inputs, R rank of a change; G groups of a row; W words of a row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models import float8
from glmkit.models.host_weights import keep_on_host

GROUP = 128  # inputs that share a scale or a word order, where a matrix has so many
BITS = {"int8": 8, "int4": 4}
NUMBERS_AT_ONCE = 2**22  # that are packed: little memory beside the packed ones, and no large holes between these
RANK_MULTIPLE = 16  # what matrix units take at once
OUTLIER = 20.0  # a value so many times the root mean square of its row would leave the others few of the 255 numbers
# How a precision holds the matrices of a component.
FORMATS: Mapping[str, Mapping[str, str]] = {
    "8bit": {"autoregressive": "int8", "decoder": "e4m3"},
    "4bit": {"autoregressive": "int4", "decoder": "e4m3"},
}
MATRICES = {
    "autoregressive": re.compile(r"language_model\.layers\.\d+\.(self_attn|mlp)\.|lm_head$"),
    "decoder": re.compile(r"transformer_blocks\.\d+\.(attn1|ff)\."),
}


@dataclass(frozen=True)
class LowRank:
    """The change B A of a matrix by adapters: `a` R x K and `b` N x R, with their weights and scales in `b`."""

    a: Tensor
    b: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> LowRank:
        """Return the change on a device, in a type, its rank filled up with zeros to a multiple of 16."""
        missing = -len(self.a) % RANK_MULTIPLE
        a, b = F.pad(self.a, (0, 0, 0, missing)), F.pad(self.b, (0, missing))
        return LowRank(a.to(device, dtype).contiguous(), b.to(device, dtype).contiguous())


@dataclass(frozen=True)
class PackedMatrix:
    """Hold a matrix N x K: `values` N x K (e4m3) or words N x W (`to_words`), `scale` N x 1 or N x G, bias N.

    `change` is added to products as it is: most of what adapters change is less than the
    distance of two numbers of 8 bits.
    """

    format: str
    values: Tensor
    scale: Tensor
    bias: Tensor | None = None
    change: LowRank | None = None

    @classmethod
    def pack(
        cls,
        weight: Tensor,
        format: str,
        bias: Tensor | None = None,
        device: torch.device | None = None,
        grouped: bool = False,
    ) -> PackedMatrix:
        """Round a matrix to the nearest values of a format, on a device (None: its own), some rows at a time.

        `grouped`: whole numbers of 8 bits get a scale per group, as they do where a row has an outlier.
        """
        grouped = grouped or format == "int4"
        values = scale = None
        for start in range(0, len(weight), step := max(1, NUMBERS_AT_ONCE // weight.shape[1])):
            rows = weight.detach()[start : start + step].to(device or weight.device).float()
            if format == "int8" and not grouped and bool((_outliers(rows) > OUTLIER).any()):
                return cls.pack(weight, format, bias, device, grouped=True)
            own = float8.cast_rows(rows) if format == "e4m3" else _to_whole_numbers(rows, BITS[format], grouped)
            if values is None or scale is None:
                values = own[0].new_empty(len(weight), own[0].shape[1])
                scale = by_group(own[1].new_empty(len(weight), own[1].shape[1]))
            values[start : start + step], scale[start : start + step] = own
        assert values is not None
        assert scale is not None
        return cls(format, values, scale, bias)

    @property
    def inputs(self) -> int:
        """Return K."""
        return self.values.shape[1] * (1 if self.format == "e4m3" else 16 // BITS[self.format])

    @property
    def nbytes(self) -> int:
        """Return the bytes of values and scales."""
        return self.values.nbytes + self.scale.nbytes

    def unpack(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the matrix N x K that is multiplied by, without its change, in a type that computes."""
        if self.format == "e4m3":
            return self.values.to(dtype).mul_(self.scale)
        values = from_words(self.values, BITS[self.format]).to(dtype)
        return values.unflatten(1, (self.scale.shape[1], -1)).mul_(self.scale[..., None]).flatten(1)

    def product(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + bias, ... x N from ... x K, in the type of x."""
        if self.format == "e4m3" and float8.multiplies(x):
            y = float8.product(*float8.cast_rows(x), self.values, self.scale, self.bias, x.dtype)
        else:
            y = F.linear(x, self._unpacked(x.dtype), self.bias)
        return y if self.change is None else y + F.linear(F.linear(x, self.change.a), self.change.b)

    def _unpacked(self, dtype: torch.dtype) -> Tensor:
        # What is compiled keeps nothing, and not every version of Dynamo knows ContextVar.
        kept = None if torch.compiler.is_compiling() else _KEPT.get()
        if kept is None:
            return self.unpack(dtype)
        key = (id(self), dtype)
        if key not in kept:
            kept[key] = self.unpack(dtype)
        return kept[key]


_KEPT: ContextVar[dict[tuple[int, torch.dtype], Tensor] | None] = ContextVar("_KEPT", default=None)


@contextmanager
def unpacked_once() -> Iterator[None]:
    """Unpack each matrix once for all products inside, and hold it until the end."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


class PackedLinear(nn.Module):
    """A linear layer whose matrix is packed; it has no parameters, and stays on its device."""

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: Tensor) -> Tensor:
        """Return ... x N from ... x K."""
        return self.matrix.product(x)


def to_words(values: Tensor, bits: int) -> Tensor:
    """Return words int16 N x W of whole numbers N x K, -2^(bits - 1) .. 2^(bits - 1) - 1.

    Inputs are packed in groups, of 128 where K has so many. Word i of a group holds inputs i, i + w, i + 2 w, ... from
    the low bits on, w words a group: neighbouring words hold neighbouring inputs. 0 stands for the least number.
    """
    parts, size = 16 // bits, group_size(values.shape[1])
    unsigned = (values + 2 ** (bits - 1)).to(torch.int32).unflatten(1, (-1, parts, size // parts))
    shifts = torch.arange(0, 16, bits, device=values.device, dtype=torch.int32)[:, None]
    return (unsigned << shifts).sum(dim=2, dtype=torch.int32).to(torch.int16).flatten(1)


def from_words(words: Tensor, bits: int) -> Tensor:
    """Return the whole numbers int8 N x K of `to_words`."""
    parts = 16 // bits
    size = group_size(words.shape[1] * parts)
    halves = words.contiguous().view(torch.uint8).unflatten(1, (-1, size // parts, 2))  # the low byte first
    split = [halves] if bits == 8 else [halves & 15, halves >> 4]
    values = torch.stack(split, dim=-1).flatten(-2).transpose(-1, -2)  # N, groups, parts, words of a group
    return (values.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8).flatten(1)


def by_group(scale: Tensor) -> Tensor:
    """Return scales N x G with those of one group side by side in the memory, as kernels read them."""
    return scale.t().contiguous().t()


def group_size(inputs: int) -> int:
    """Return how many inputs share a scale: 128, or what divides both."""
    return math.gcd(inputs, GROUP)


def _to_whole_numbers(weight: Tensor, bits: int, grouped: bool) -> tuple[Tensor, Tensor]:
    """Return the words N x W and scales N x G of a matrix N x K, one scale per row unless `grouped`."""
    weight_NGK = weight.unflatten(1, (-1, group_size(weight.shape[1]) if grouped else weight.shape[1]))
    largest = 2 ** (bits - 1) - 1
    scale = weight_NGK.abs().amax(dim=-1) / largest
    if bits == 4:
        scale = scale.bfloat16()
    scale = scale.masked_fill(scale == 0, 1.0)
    values = (weight_NGK / scale[..., None].float()).round().clamp(-largest - 1, largest)
    return to_words(values.flatten(1), bits), scale


def _outliers(weight: Tensor) -> Tensor:
    """Return the largest value of each row, in root mean squares of it."""
    return weight.abs().amax(dim=1) / weight.square().mean(dim=1).sqrt().clamp_min(1e-30)


def join(linears: Sequence[PackedLinear]) -> PackedMatrix:
    """Return one matrix for layers of one input, whose own become views of it: no value is held twice."""
    matrices = [linear.matrix for linear in linears]
    groups = max(matrix.scale.shape[1] for matrix in matrices)
    values = torch.cat([matrix.values for matrix in matrices])
    scale = by_group(torch.cat([matrix.scale.expand(-1, groups) for matrix in matrices]))
    biases = [matrix.bias for matrix in matrices if matrix.bias is not None]
    sizes = [len(matrix.values) for matrix in matrices]
    views = zip(linears, values.split(sizes), scale.split(sizes), strict=True)
    for linear, own_values, own_scale in views:
        linear.matrix = replace(linear.matrix, values=own_values, scale=own_scale)
    change = _join_changes(matrices) if any(matrix.change for matrix in matrices) else None
    return PackedMatrix(matrices[0].format, values, scale, torch.cat(biases) if biases else None, change)


def _join_changes(matrices: Sequence[PackedMatrix]) -> LowRank:
    """Return the changes of stacked matrices as one, their ranks one after the other."""
    changed = [matrix.change for matrix in matrices if matrix.change is not None]
    b = changed[0].b.new_zeros(sum(len(matrix.values) for matrix in matrices), sum(len(one.a) for one in changed))
    row = column = 0
    for matrix in matrices:
        if matrix.change is not None:
            rows, rank = matrix.change.b.shape
            b[row : row + rows, column : column + rank] = matrix.change.b
            column += rank
        row += len(matrix.values)
    return LowRank(torch.cat([one.a for one in changed]), b)


def matrix_names(component: str, module: nn.Module) -> list[str]:
    """Name the layers of a component whose matrices a precision packs, packed or not."""
    kinds = (nn.Linear, PackedLinear)
    named = MATRICES[component]
    return [name for name, child in module.named_modules() if isinstance(child, kinds) and named.match(name)]


def quantize(
    component: str, module: nn.Module, precision: str, device: torch.device, changes: Mapping[str, LowRank]
) -> nn.Module:
    """Pack the matrices of a component, one after the other, on a device, and move the rest there.

    What is packed already stays. `changes` are added to the products of the layers that they name. In 4 bits, what a
    GPU reads little of stays in the CPU's memory.
    """
    if precision == "4bit" and device.type != "cpu":
        keep_on_host(module, getattr(getattr(module, "config", None), "vision_vocab_size", 0), device)
    for name in matrix_names(component, module):
        layer = module.get_submodule(name)
        if isinstance(layer, PackedLinear):
            matrix = layer.matrix
        else:
            assert isinstance(layer, nn.Linear)
            bias = None if layer.bias is None else layer.bias.data.to(device)
            matrix = PackedMatrix.pack(layer.weight, FORMATS[precision][component], bias, device)
        change = changes.get(name)
        module.set_submodule(name, PackedLinear(replace(matrix, change=change and change.to(device, change.a.dtype))))
    return module.to(device)
