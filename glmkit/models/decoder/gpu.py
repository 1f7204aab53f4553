"""The decoder's blocks for inference: cuBLAS and cuDNN, with our kernels between (`glmkit.models.decoder.kernels`).

The result is that of `decoder.Block` but for rounding; nothing is compiled by torch, so that a new size or length of
text costs nothing.

Shapes: B rows, T glyph tokens, N image tokens, L = T + N, D width, K heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from glmkit.models.decoder.kernels import heads_kernel, stream_kernel
from glmkit.models.decoder.model import NORM_EPS, Block, DiffusionDecoder, KeyValue

SHIFT, GATE = (0, 3), (2, 5)  # of attention, of the feed-forward
WIDE = 1024  # values of a token above which a program has 8 warps
# What the queries B K L d of the block of that number read of its own keys and values, and more where there are more.
Attend = Callable[[int, Tensor, KeyValue], Tensor]


def fits(decoder: DiffusionDecoder) -> bool:
    """Whether every block computes queries, keys and values by one product (see `DiffusionDecoder.fuse`), and half a
    head is a power of two, as Triton counts."""
    half = decoder.config.attention_head_dim // 2
    fused = all(cast(Block, block).attn1.fused is not None for block in decoder.transformer_blocks)
    return fused and half == triton.next_power_of_2(half)


@torch.no_grad()
def through(
    blocks: Sequence[Block],
    modulation: Sequence[Tensor],
    text: Tensor,
    image: Tensor,
    rope: tuple[Tensor, Tensor],
    attend: Attend,
) -> Tensor:
    """Image tokens B N D behind all blocks; `modulation` 12 D a block, `rope` as `decoder.rotary_cos_sin` gives it."""
    glyphs = text.shape[1]
    x = torch.cat([text, image], dim=1)
    with torch.cuda.device_of(x):  # kernels go to the current device
        x, normed = stream(x, glyphs, None, (modulation[0], SHIFT[0]))
        for index, (block, own) in enumerate(zip(blocks, modulation, strict=True)):
            attention = block.attn1
            assert attention.fused is not None
            query, read = heads(F.linear(normed, *attention.fused), rope, attention.heads)
            update = attention.output(attend(index, query, read))
            x, normed = stream(x, glyphs, (update, own, GATE[0]), (own, SHIFT[1]))
            following = (modulation[index + 1], SHIFT[0]) if index + 1 < len(blocks) else None
            x, normed = stream(x, glyphs, (block.ff(normed), own, GATE[1]), following)
    return x[:, glyphs:]


def stream(
    x: Tensor, text: int, update: tuple[Tensor, Tensor, int] | None, norm: tuple[Tensor, int] | None
) -> tuple[Tensor, Tensor]:
    """x B L D with an `update` (B L D, modulation, number of its gate), x itself without one; and the modulated `norm` of
    that (modulation, number of its shift), which means nothing where none is asked for."""
    rows, length, width = x.shape
    more, gates, gate = update or (x, x, -1)
    norms, shift = norm or (x, -1)
    new, normed = (torch.empty_like(x) if asked >= 0 else x for asked in (gate, shift))
    block = triton.next_power_of_2(width)
    stream_kernel[(rows * length,)](
        x, more, new, normed, gates, norms, length, text, width, NORM_EPS, gate, shift, block,
        num_warps=8 if block > WIDE else 4,
    )  # fmt: skip
    return new, normed


def heads(qkv: Tensor, rope: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, KeyValue]:
    """Queries B K L d, keys and values, of B L 3D; `rope` both L x 1 x d / 2."""
    rows, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    query, key = (qkv.new_empty(rows, length, count, width // count) for _ in range(2))
    heads_kernel[(rows * length,)](
        qkv, query, key, *rope, length, count, NORM_EPS, triton.next_power_of_2(count), width // count // 2
    )
    value = qkv[..., 2 * width :].unflatten(-1, (count, -1))
    return query.transpose(1, 2), KeyValue(key.transpose(1, 2), value.transpose(1, 2))
