"""Ways to run a decoder's blocks, equal to `glmkit.models.decoder.model` but for rounding, and the choice of one.

eager            the blocks as they are
compiled_blocks  what comes before and after attention compiled by torch
gpu              Triton kernels between the products of cuBLAS and the attention of cuDNN
gpu_float8       the same with products in 8-bit floating point
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from glmkit.models.decoder import compiled_blocks, eager
from glmkit.models.decoder.model import Attend, DecoderBlock, DiffusionDecoder
from glmkit.models.devices import triton_runs


class BlockBackend(Protocol):
    """A module that runs blocks for inference; where not every decoder suits it, `supports(decoder)` tells."""

    PADS_TEXT: bool  # whether glyph texts are padded to few lengths, since each length is compiled anew
    USES_TRITON: bool

    def run_blocks(
        self,
        blocks: Sequence[DecoderBlock],
        modulation: Sequence[Tensor],
        text: Tensor,
        image: Tensor,
        rope: tuple[Tensor, Tensor],
        attend: Attend,
    ) -> Tensor:
        """Return image tokens B N D behind all blocks; see `glmkit.models.decoder.model.run_blocks`."""
        ...


def choose_backend(decoder: DiffusionDecoder, *, optimized: bool) -> BlockBackend:
    """Return the fastest way for this decoder and its device; `eager` unless `optimized`."""
    if not optimized:
        return eager
    if triton_runs(decoder.proj_out.weight.device):
        from glmkit.models.decoder import gpu, gpu_float8  # which Triton's absence would not let in

        if gpu_float8.supports(decoder):
            return gpu_float8
        if gpu.supports(decoder):
            return gpu
    return compiled_blocks
