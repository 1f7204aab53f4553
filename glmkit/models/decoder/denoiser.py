"""The decoder made ready for one batch of images: what depends on step, size or prompt only is computed once.

Shapes as in `glmkit.models`; here B are the samples of a batch, half of them unconditional under guidance, G those of
one group, T glyph tokens, L = T + N, n steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from glmkit.models.cpu_threads import parallel_map
from glmkit.models.decoder.backends import BlockBackend, choose_backend
from glmkit.models.decoder.condition_cache import ConditionCache, KeyValue
from glmkit.models.decoder.model import DecoderBlock, DiffusionDecoder, rotary_cos_sin
from glmkit.models.decoder.token_share import TokenShare

# Values of image tokens that a GPU works on together, 4,096 tokens of the published width; more fill it no better. A
# CPU takes one sample at a time.
VALUES_PER_GROUP = 4096 * 4096
SHORTEST_PADDED = 8  # compiled blocks see glyph texts of 8, 16, 32, ... tokens
FASTEST_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


@dataclass(frozen=True)
class DenoiserSample:
    """Hold the conditions of one image, or the unconditional ones of guidance.

    `glyph_embeds` T x text_embed_dim without padding; `prior_token_ids` N, None where they are dropped;
    `condition_cache` of this sample alone.
    """

    glyph_embeds: Tensor
    prior_token_ids: Tensor | None
    condition_cache: ConditionCache | None = None


@dataclass(frozen=True)
class _Run:
    """Neighbouring samples of a group that attend alike: their keys begin at `start`, behind the padding.

    `cached`, of a sample with condition images: for every block their keys and values.
    """

    samples: slice
    start: int
    cached: tuple[KeyValue, ...] = ()


@dataclass(frozen=True)
class _Group:
    """Samples that go through the blocks together."""

    samples: slice
    text: Tensor
    prior: Tensor
    rope: tuple[Tensor, Tensor]
    runs: tuple[_Run, ...]


class Denoiser:
    """Velocities `noise - clean` of B samples of one size, at n timesteps that are known beforehand.

    No sample sees padding or another sample: each attends to exactly its own tokens, without a mask. `size` is (height,
    width) in pixels, `grid` the rows and columns of image tokens, `timesteps` n the unshifted times minus 1.
    `group_size` samples go through the blocks together (None: as many as suit the device), the first `leading` ones
    apart from the others, so that they can go alone. `compile_blocks` runs the blocks by the fastest backend.

    The blocks run in the `full_steps` (n, None: all). Behind one that is not followed by another full step, what they
    added to the image tokens is kept, and added again until the next: such steps must come in their order.

    With a `share`, the processes of its group call together, and each has a part of the image tokens between the first
    and the last product; what is returned is whole in all of them.
    """

    def __init__(
        self,
        decoder: DiffusionDecoder,
        samples: Sequence[DenoiserSample],
        timesteps: Tensor,
        size: tuple[int, int],
        grid: tuple[int, int],
        compile_blocks: bool = False,
        group_size: int | None = None,
        leading: int = 0,
        full_steps: Sequence[bool] | None = None,
        share: TokenShare | None = None,
    ) -> None:
        self.decoder, self._grid, self._share = decoder, grid, share
        self._full = [True] * len(timesteps) if full_steps is None else list(full_steps)
        self._residuals: dict[int, Tensor] = {}
        weight = decoder.proj_out.weight
        self._device = weight.device
        self.backend: BlockBackend = choose_backend(decoder, optimized=compile_blocks)
        # 1. The conditioning vector n E of every step, and every block's modulation n 12D: some 100 MB at the
        # published size, one product per block.
        sizes = torch.tensor([size], dtype=torch.float32, device=self._device).expand(len(timesteps), 2)
        condition = decoder.time_condition_embed(timesteps.to(self._device), sizes, torch.zeros_like(sizes))
        self._condition = condition.to(weight.dtype)
        self._modulation = [cast(DecoderBlock, block).norm1(self._condition) for block in decoder.transformer_blocks]
        # 2. The glyphs, priors, rotary angles and keys of condition images of every group.
        if group_size is None:
            on_gpu = self._device.type == "cuda"
            values = grid[0] * grid[1] * decoder.config.width
            group_size = max(1, VALUES_PER_GROUP // values) if on_gpu else 1
        starts = [*range(0, leading, group_size), *range(leading, len(samples), group_size)]
        self._groups = [
            self._group(slice(start, stop), samples[start:stop]) for start, stop in pairwise([*starts, len(samples)])
        ]

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Return velocities B C H W of noisy latents B C H W at timestep number `step`, in the decoder's type.

        Latents of the `leading` samples alone give theirs.
        """
        groups = [group for group in self._groups if group.samples.start < len(latents)]
        with best_attention(self._device):
            velocity = partial(self._velocity, latents=latents, step=step)
            if self._share is not None:  # processes exchange in one order
                return torch.cat([*map(velocity, groups)])
            return torch.cat(parallel_map(velocity, groups, self._device))

    def _velocity(self, group: _Group, latents: Tensor, step: int) -> Tensor:
        """Return velocities G C H W of the group's samples of `latents`."""
        decoder = self.decoder
        image = self._own(decoder.image_projector(latents[group.samples]), 1) + group.prior
        image = self._through_blocks(group, image, step)
        patches = decoder.proj_out(decoder.norm_out(image, self._condition[step : step + 1]))
        if self._share is not None:
            patches = self._share.gather(patches, 1)
        return decoder.unpatchify(patches, self._grid)

    def _through_blocks(self, group: _Group, image: Tensor, step: int) -> Tensor:
        """Return image tokens G N D behind all blocks, or with the residual that these left in an earlier step."""
        key = group.samples.start
        if not self._full[step]:
            return image + self._residuals[key]
        modulation = [of_block[step] for of_block in self._modulation]
        blocks = cast(Sequence[DecoderBlock], self.decoder.transformer_blocks)
        attend = partial(_attend, group.runs, self._share, group.text.shape[1])
        result = self.backend.run_blocks(blocks, modulation, group.text, image, group.rope, attend)
        if not all(self._full[step + 1 : step + 2]):
            self._residuals[key] = result - image
        return result

    def _group(self, where: slice, samples: Sequence[DenoiserSample]) -> _Group:
        glyphs = [sample.glyph_embeds for sample in samples]
        lengths = [len(glyph) for glyph in glyphs]
        longest = _padded(max(lengths)) if self.backend.PADS_TEXT else max(lengths)
        texts = [F.pad(self.decoder.glyph_projector(glyph), (0, 0, longest - len(glyph), 0)) for glyph in glyphs]
        rope = rotary_cos_sin(longest, *self._grid, self.decoder.config.attention_head_dim, self._device)
        if self._share is not None:
            cos, sin = (torch.cat([angles[:longest], self._own(angles[longest:], 0)]) for angles in rope)
            rope = cos, sin
        return _Group(
            where,
            torch.stack(texts),
            self._own(torch.stack([self._prior(sample.prior_token_ids) for sample in samples]), 1),
            rope,
            tuple(_runs(samples, lengths, longest)),
        )

    def _own(self, tokens: Tensor, dim: int) -> Tensor:
        """Return this process's part of image tokens, which lie along `dim`."""
        return tokens if self._share is None else self._share.own(tokens, dim)

    def _prior(self, ids: Tensor | None) -> Tensor:
        """Return what is added to the image tokens, N D; a dropped prior is the same vector for every token."""
        if ids is None:
            nothing = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
            dropped = self.decoder.prior_embedding(nothing, torch.ones_like(nothing[0], dtype=torch.bool))
            return dropped[0].expand(self._grid[0] * self._grid[1], -1)
        ids = ids.to(self._device)[None]
        return self.decoder.prior_embedding(ids, torch.zeros_like(ids[:, 0], dtype=torch.bool))[0]


def cache_condition_images(
    decoder: DiffusionDecoder, images: Sequence[tuple[Tensor, Tensor, tuple[int, int]]], compile_blocks: bool = False
) -> ConditionCache:
    """Return `decoder.cache_condition_images(images)`.

    With `compile_blocks` by Triton's kernels where they run, and then without gradients.
    """
    backend = choose_backend(decoder, optimized=compile_blocks)
    if not backend.USES_TRITON:
        return decoder.cache_condition_images(images)
    with best_attention(decoder.proj_out.weight.device):
        return ConditionCache.join(
            [_key_values(decoder, backend, *decoder.condition_image_inputs(*image)) for image in images]
        )


def _key_values(
    decoder: DiffusionDecoder, backend: BlockBackend, image: Tensor, condition: Tensor, rope: tuple[Tensor, Tensor]
) -> list[KeyValue]:
    """Return every layer's keys and values of one condition image, from its `condition_image_inputs`."""
    layers: list[KeyValue] = []

    def attend(_: int, query: Tensor, key_value: KeyValue) -> Tensor:
        layers.append(key_value.owned())
        return F.scaled_dot_product_attention(query, *key_value)

    blocks = cast(Sequence[DecoderBlock], decoder.transformer_blocks)
    modulation = [block.norm1(condition)[0] for block in blocks]
    backend.run_blocks(blocks, modulation, image[:, :0], image, rope, attend)
    return layers


def _runs(samples: Sequence[DenoiserSample], lengths: Sequence[int], longest: int) -> list[_Run]:
    """Group samples with so many glyph tokens, padded to the `longest`; one with condition images stands alone."""

    def alike(index: int) -> tuple[int, int | None]:
        return lengths[index], index if samples[index].condition_cache else None

    runs, begin = [], 0
    for (length, index), members in groupby(range(len(samples)), alike):
        count = len(list(members))
        cache = None if index is None else samples[index].condition_cache
        runs.append(_Run(slice(begin, begin + count), longest - length, () if cache is None else cache.layers))
        begin += count
    return runs


def _attend(
    runs: Sequence[_Run], share: TokenShare | None, text: int, index: int, query: Tensor, key_value: KeyValue
) -> Tensor:
    """Return what G K L d queries of block `index` read: their sample's condition images, then its own tokens.

    Behind `text` glyph tokens stand image tokens, with a `share` a part of them.
    """
    if share is not None:
        key_value = share.gather_key_value(key_value, text)
    attention_output = []
    for run in runs:
        readable = KeyValue(key_value.key[run.samples, :, run.start :], key_value.value[run.samples, :, run.start :])
        if run.cached:
            # Copied for one block at a time: room behind the cached ones of all blocks would take as much again.
            readable = run.cached[index].before(readable)
        attention_output.append(F.scaled_dot_product_attention(query[run.samples], readable.key, readable.value))
    return attention_output[0] if len(attention_output) == 1 else torch.cat(attention_output)


def _padded(length: int) -> int:
    """Return the next power of two: few lengths, few compiled versions."""
    return max(SHORTEST_PADDED, 1 << (length - 1).bit_length())


def best_attention(device: torch.device) -> AbstractContextManager[None]:
    """Prefer on a GPU the attention of cuDNN where it can, then FlashAttention, then the rest."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([*FASTEST_FIRST, SDPBackend.MATH], set_priority=True)
