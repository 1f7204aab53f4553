"""The decoder made ready for one batch of images: what depends on step, size or prompt only is computed once.

Shapes: R rows, G rows of one group, C latent channels, H W rows and columns of latents, T glyph tokens, N image tokens,
L = T + N, K heads, d head width, D width, n steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from glmkit.models.compiling import compiled
from glmkit.models.cpu_threads import parallel_map
from glmkit.models.decoder.model import Block, ConditionCache, DiffusionDecoder, KeyValue, rotary_cos_sin
from glmkit.models.devices import triton_runs

# Image tokens that a GPU works on together; more fill it no better. A CPU takes one row at a time.
TOKENS_AT_ONCE = 4096
SHORTEST_PADDED = 8  # compiled blocks see glyph texts of 8, 16, 32, ... tokens
FASTEST_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


@dataclass(frozen=True)
class DenoiserSample:
    """One image's conditions, or the unconditional ones of guidance.

    `glyph_embeds` T x text_embed_dim without padding; `prior_token_ids` N, None where they are dropped;
    `condition_cache` of this sample alone.
    """

    glyph_embeds: Tensor
    prior_token_ids: Tensor | None
    condition_cache: ConditionCache | None = None


@dataclass(frozen=True)
class _Run:
    """Neighbouring rows of a group that attend alike: their keys begin at `start`, behind the padding.

    `joint`, of a row with sources: for every block their keys and values, and behind them room for the row's own.
    """

    rows: slice
    start: int
    joint: tuple[KeyValue, ...] = ()


@dataclass(frozen=True)
class _Group:
    """Rows that go through the blocks together."""

    rows: slice
    text: Tensor
    prior: Tensor
    rope: tuple[Tensor, Tensor]
    runs: tuple[_Run, ...]


class Denoiser:
    """Velocities `noise - clean` of R rows of one size, at n timesteps that are known beforehand.

    No row sees padding or another row: each attends to exactly its own tokens, without a mask. `size` is (height,
    width) in pixels, `grid` the rows and columns of image tokens, `timesteps` n the unshifted times minus 1.
    `at_once` rows go through the blocks together (None: as many as suit the device).

    `compile_blocks` runs the blocks by kernels of our own where those run, elsewhere through torch.compile.
    """

    def __init__(
        self,
        decoder: DiffusionDecoder,
        rows: Sequence[DenoiserSample],
        timesteps: Tensor,
        size: tuple[int, int],
        grid: tuple[int, int],
        compile_blocks: bool = False,
        at_once: int | None = None,
    ) -> None:
        self.decoder, self._grid = decoder, grid
        weight = decoder.proj_out.weight
        self._device = weight.device
        self._by_kernels = _kernels_for(decoder) if compile_blocks else None
        self._padded = compile_blocks and self._by_kernels is None
        self._before, self._after = self._halves(self._padded)
        numbers = torch.tensor([size], dtype=torch.float32, device=self._device).expand(len(timesteps), 2)
        times = timesteps.to(self._device)
        condition = decoder.time_condition_embed(times, numbers, torch.zeros_like(numbers))
        self._condition = condition.to(weight.dtype)
        # Every block's modulation at every step: some 100 MB at the published size, one product a block.
        self._modulation = [cast(Block, block).norm1(self._condition) for block in decoder.transformer_blocks]
        if at_once is None:
            at_once = max(1, TOKENS_AT_ONCE // (grid[0] * grid[1])) if self._device.type == "cuda" else 1
        self._groups = [
            self._group(slice(start, start + at_once), rows[start : start + at_once])
            for start in range(0, len(rows), at_once)
        ]

    @staticmethod
    def _halves(compile_blocks: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """A block's work before and after attention, which itself has its own kernels and any number of keys."""
        if compile_blocks:
            return compiled(Block.before_attention), compiled(Block.after_attention)
        return Block.before_attention, Block.after_attention

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Velocities R C H W of noisy latents R C H W at timestep number `step`, in the decoder's type."""
        with best_attention(self._device):
            through = partial(self._through, latents=latents, step=step)
            return torch.cat(parallel_map(through, self._groups, self._device))

    def _through(self, group: _Group, latents: Tensor, step: int) -> Tensor:
        """Velocities of the group's rows of `latents`."""
        decoder = self.decoder
        text, image = group.text, decoder.image_projector(latents[group.rows]) + group.prior
        modulation = [own[step] for own in self._modulation]
        if self._by_kernels is not None:
            attend = partial(_attend, group.runs)
            image = self._by_kernels(decoder.transformer_blocks, modulation, text, image, group.rope, attend)
        else:
            for index, (block, own) in enumerate(zip(decoder.transformer_blocks, modulation, strict=True)):
                query, read = self._before(block, text, image, own[None], group.rope)
                attention_output = _attend(group.runs, index, query, read)
                text, image = self._after(block, text, image, attention_output, own[None])
        patches = decoder.proj_out(decoder.norm_out(image, self._condition[step : step + 1]))
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, self._grid), decoder.config.patch_size)

    def _group(self, where: slice, rows: Sequence[DenoiserSample]) -> _Group:
        lengths = [len(row.glyph_embeds) for row in rows]
        longest = _padded(max(lengths)) if self._padded else max(lengths)
        texts = [
            F.pad(self.decoder.glyph_projector(row.glyph_embeds), (0, 0, longest - len(row.glyph_embeds), 0))
            for row in rows
        ]
        return _Group(
            where,
            torch.stack(texts),
            torch.stack([self._prior(row.prior_token_ids) for row in rows]),
            rotary_cos_sin(longest, *self._grid, self.decoder.config.attention_head_dim, self._device),
            tuple(_runs(rows, lengths, longest, self._grid[0] * self._grid[1])),
        )

    def _prior(self, ids: Tensor | None) -> Tensor:
        """N D; a dropped prior is the same vector for every token."""
        if ids is None:
            nothing = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
            dropped = self.decoder.prior_embedding(nothing, torch.ones_like(nothing[0], dtype=torch.bool))
            return dropped[0].expand(self._grid[0] * self._grid[1], -1)
        ids = ids.to(self._device)[None]
        return self.decoder.prior_embedding(ids, torch.zeros_like(ids[:, 0], dtype=torch.bool))[0]


def cache_condition_images(
    decoder: DiffusionDecoder, sources: Sequence[tuple[Tensor, Tensor, tuple[int, int]]], compile_blocks: bool = False
) -> ConditionCache:
    """`decoder.cache_condition_images(sources)`; with `compile_blocks`, and without gradients, by kernels of our own where they
    run."""
    kernels = _kernels_for(decoder) if compile_blocks else None
    if kernels is None:
        return decoder.cache_condition_images(sources)
    with best_attention(decoder.proj_out.weight.device):
        return ConditionCache.join(
            [_written(decoder, kernels, *decoder.condition_image_inputs(*source)) for source in sources]
        )


def _written(
    decoder: DiffusionDecoder,
    kernels: Callable[..., Tensor],
    image: Tensor,
    condition: Tensor,
    rope: tuple[Tensor, Tensor],
) -> list[KeyValue]:
    """Every layer's keys and values of one source, from its `condition_image_inputs`."""
    layers: list[KeyValue] = []

    def attend(_: int, query: Tensor, own: KeyValue) -> Tensor:
        layers.append(own)
        return F.scaled_dot_product_attention(query, *own)

    modulation = [cast(Block, block).norm1(condition)[0] for block in decoder.transformer_blocks]
    kernels(decoder.transformer_blocks, modulation, image[:, :0], image, rope, attend)
    return layers


def _kernels_for(decoder: DiffusionDecoder) -> Callable[..., Tensor] | None:
    """`gpu_blocks.through` where Triton runs on the decoder's device and the decoder suits it."""
    if not triton_runs(decoder.proj_out.weight.device):
        return None
    from glmkit.models.decoder import gpu as gpu_blocks  # which Triton's absence would not let in

    return gpu_blocks.through if gpu_blocks.fits(decoder) else None


def _runs(rows: Sequence[DenoiserSample], lengths: Sequence[int], longest: int, image_tokens: int) -> list[_Run]:
    """Of rows with so many glyph tokens, filled up to the `longest`. A row with sources stands alone."""
    runs, begin = [], 0
    for (length, with_sources), alike in groupby(
        range(len(rows)), lambda number: (lengths[number], number if rows[number].condition_cache else None)
    ):
        count = len(list(alike))
        sources = None if with_sources is None else rows[with_sources].condition_cache
        joint = () if sources is None else tuple(_room(layer, length + image_tokens) for layer in sources.layers)
        runs.append(_Run(slice(begin, begin + count), longest - length, joint))
        begin += count
    return runs


def _room(sources: KeyValue, tokens: int) -> KeyValue:
    """Both 1 K S d, with room for so many tokens behind them, laid out as projections write: all heads of a token."""
    joint = []
    for part in sources:
        rows, heads, read, size = part.shape
        room = part.new_empty(rows, read + tokens, heads, size).transpose(1, 2)
        room[:, :, :read] = part
        joint.append(room)
    return KeyValue(*joint)


def _attend(runs: Sequence[_Run], index: int, query: Tensor, own: KeyValue) -> Tensor:
    """What G K L d queries of block `index` read: their row's sources, then their row's own tokens."""
    attention_output = []
    for run in runs:
        read = KeyValue(own.key[run.rows, :, run.start :], own.value[run.rows, :, run.start :])
        if run.joint:
            tokens = read.key.shape[2]
            for room, part in zip(run.joint[index], read, strict=True):
                room[:, :, -tokens:] = part
            read = run.joint[index]
        attention_output.append(F.scaled_dot_product_attention(query[run.rows], read.key, read.value))
    return attention_output[0] if len(attention_output) == 1 else torch.cat(attention_output)


def _padded(length: int) -> int:
    """The next power of two: few lengths, few compiled versions."""
    return max(SHORTEST_PADDED, 1 << (length - 1).bit_length())


def best_attention(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU cuDNN's attention where it can, then FlashAttention, then the rest."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([*FASTEST_FIRST, SDPBackend.MATH], set_priority=True)
