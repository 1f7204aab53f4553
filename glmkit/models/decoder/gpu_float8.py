"""The decoder's blocks with products in 8-bit floating point (`glmkit.models.float8`), and Triton kernels between.

As `glmkit.models.decoder.gpu`, but what a product reads is written in e4m3 by the kernel before it, with a scale per
token. Attention has queries, keys and values in the model's own type.

Shapes as in `glmkit.models`; T glyph tokens, L = T + N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import triton
from torch import Tensor, nn

from glmkit.models import float8
from glmkit.models.decoder import gpu
from glmkit.models.decoder.gpu import GATE, SHIFT
from glmkit.models.decoder.kernels import cast_kernel
from glmkit.models.decoder.model import Attend, DecoderBlock, DiffusionDecoder
from glmkit.models.quantized import PackedLinear, PackedMatrix, matrix_names

PADS_TEXT, USES_TRITON = False, True
CAST_WARPS = 8

Tokens = tuple[Tensor, Tensor]  # e4m3 B L K, and the scale of each, float32 B L 1


def supports(decoder: DiffusionDecoder) -> bool:
    """Return whether the kernels can run the blocks: their matrices are in e4m3, no adapter beside them."""
    layers = [decoder.get_submodule(name) for name in matrix_names("decoder", decoder)]
    packed = all(isinstance(layer, PackedLinear) and _is_plain(layer.matrix) for layer in layers)
    return packed and gpu.supports(decoder) and float8.has_products(decoder.proj_out.weight.device)


def _is_plain(matrix: PackedMatrix) -> bool:
    return matrix.format == "e4m3" and matrix.change is None and matrix.inputs % 16 == 0


@torch.no_grad()
def run_blocks(
    blocks: Sequence[DecoderBlock],
    modulation: Sequence[Tensor],
    text: Tensor,
    image: Tensor,
    rope: tuple[Tensor, Tensor],
    attend: Attend,
) -> Tensor:
    """Return image tokens B N D behind all blocks; see `glmkit.models.decoder.model.run_blocks`."""
    glyphs = text.shape[1]
    x = torch.cat([text, image], dim=1)
    scale = torch.empty(*x.shape[:2], 1, device=x.device)  # each product reads it before the next norm is written
    with torch.cuda.device_of(x):  # kernels go to the current device
        x, normed = gpu.stream(x, glyphs, None, (modulation[0], SHIFT[0]), scale)
        for index, (block, modulation_12D) in enumerate(zip(blocks, modulation, strict=True)):
            attention, (first, _, last) = block.attn1, block.ff.net
            qkv = product((normed, scale), cast(PackedMatrix, attention.fused), x.dtype)
            query, key_value = gpu.heads(qkv, rope, attention.heads)
            attention_output = attend(index, query, key_value).transpose(1, 2).flatten(2)
            update = product(cast_tokens(attention_output), _matrix(attention.to_out[0]), x.dtype)
            gate, shift = (update, modulation_12D, GATE[0]), (modulation_12D, SHIFT[1])
            x, normed = gpu.stream(x, glyphs, gate, shift, scale)
            hidden = product((normed, scale), _matrix(first.proj), x.dtype)
            update = product(cast_tokens(hidden, gelu=True), _matrix(last), x.dtype)
            following = (modulation[index + 1], SHIFT[0]) if index + 1 < len(blocks) else None
            x, normed = gpu.stream(x, glyphs, (update, modulation_12D, GATE[1]), following, scale)
    return x[:, glyphs:]


def _matrix(layer: Tensor | nn.Module) -> PackedMatrix:
    return cast(PackedLinear, layer).matrix


def product(tokens: Tokens, matrix: PackedMatrix, dtype: torch.dtype) -> Tensor:
    """Return ... N from tokens ... K."""
    return float8.product(*tokens, matrix.values, matrix.scale, matrix.bias, dtype)


def cast_tokens(x: Tensor, gelu: bool = False) -> Tokens:
    """Return tokens ... K in e4m3 and their scales, by one kernel; `gelu` takes the tanh form of GELU of x before."""
    x = x.contiguous()
    values, scale = torch.empty_like(x, dtype=float8.FLOAT8), torch.empty(*x.shape[:-1], 1, device=x.device)
    width = x.shape[-1]
    cast_kernel[(x[..., 0].numel(),)](
        x, values, scale, width, gelu, triton.next_power_of_2(width), num_warps=CAST_WARPS
    )
    return values, scale
