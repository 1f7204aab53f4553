"""The decoder's blocks for inference: cuBLAS and cuDNN, with Triton kernels between (`glmkit.models.decoder.kernels`).

The result is that of `DecoderBlock` but for rounding; nothing is compiled by torch, so that a new size or length of
text costs nothing.

Shapes as in `glmkit.models`; T glyph tokens, L = T + N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import triton
from torch import Tensor

from glmkit.models.decoder.condition_cache import KeyValue
from glmkit.models.decoder.kernels import heads_kernel, stream_kernel
from glmkit.models.decoder.layers import NORM_EPS
from glmkit.models.decoder.model import Attend, DecoderBlock, DiffusionDecoder
from glmkit.models.float8 import FLOAT8
from glmkit.models.fused_linear import project

PADS_TEXT, USES_TRITON = False, True
SHIFT, GATE = (0, 3), (2, 5)  # of attention, of the feed-forward: numbers in a block's modulation
WIDE = 1024  # values of a token above which a program has 8 warps in place of 4


def supports(decoder: DiffusionDecoder) -> bool:
    """Return whether the kernels can run the blocks.

    Each must compute queries, keys and values by one product (see `DiffusionDecoder.fuse`), and half a head must be a
    power of two, as Triton counts.
    """
    half = decoder.config.attention_head_dim // 2
    fused = all(cast(DecoderBlock, block).attn1.fused is not None for block in decoder.transformer_blocks)
    return fused and half == triton.next_power_of_2(half)


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
    with torch.cuda.device_of(x):  # kernels go to the current device
        x, normed = stream(x, glyphs, None, (modulation[0], SHIFT[0]))
        for index, (block, modulation_12D) in enumerate(zip(blocks, modulation, strict=True)):
            attention = block.attn1
            assert attention.fused is not None
            query, key_value = heads(project(normed, attention.fused), rope, attention.heads)
            update = attention.output(attend(index, query, key_value))
            x, normed = stream(x, glyphs, (update, modulation_12D, GATE[0]), (modulation_12D, SHIFT[1]))
            following = (modulation[index + 1], SHIFT[0]) if index + 1 < len(blocks) else None
            x, normed = stream(x, glyphs, (block.ff(normed), modulation_12D, GATE[1]), following)
    return x[:, glyphs:]


def stream(
    x: Tensor,
    text: int,
    update: tuple[Tensor, Tensor, int] | None,
    norm: tuple[Tensor, int] | None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return x B L D with an `update`, and the modulated `norm` of that.

    `text` is the number of glyph tokens in front. `update` is (B L D, modulation 12 D, number of its gate), None to
    leave x as it is; `norm` is (modulation 12 D, number of its shift), None where the second result is not used. With
    `scale`, float32 B L 1, that is e4m3, and its tokens' scales are written there.
    """
    batch, length, width = x.shape
    addend, gates, gate = update or (x, x, -1)
    shifts, shift = norm or (x, -1)
    new, normed = (torch.empty_like(x) if number >= 0 else x for number in (gate, shift))
    if scale is not None and shift >= 0:
        normed = torch.empty_like(x, dtype=FLOAT8)
    block = triton.next_power_of_2(width)
    stream_kernel[(batch * length,)](
        x, addend, new, normed, x if scale is None else scale, gates, shifts, length, text, width, NORM_EPS,
        gate, shift, scale is not None, block,
        num_warps=8 if block > WIDE else 4,
    )  # fmt: skip
    return new, normed


def heads(qkv: Tensor, rope: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, KeyValue]:
    """Return queries B K L d, keys and values, from the fused projection B L 3D; `rope` both L x 1 x d / 2."""
    batch, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    query, key = (qkv.new_empty(batch, length, count, width // count) for _ in range(2))
    heads_kernel[(batch * length,)](
        qkv, query, key, *rope, length, count, NORM_EPS, triton.next_power_of_2(count), width // count // 2
    )
    value = qkv[..., 2 * width :].unflatten(-1, (count, -1))
    return query.transpose(1, 2), KeyValue(key.transpose(1, 2), value.transpose(1, 2))
