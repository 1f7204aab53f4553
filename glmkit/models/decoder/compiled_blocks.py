"""The decoder's blocks with what comes before and after attention compiled by torch, once for all blocks.

Attention itself has its own kernels and any number of keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glmkit.models.compiling import compiled
from glmkit.models.decoder import model
from glmkit.models.decoder.model import Attend, BlockSteps, DecoderBlock

PADS_TEXT, USES_TRITON = True, False


def run_blocks(
    blocks: Sequence[DecoderBlock],
    modulation: Sequence[Tensor],
    text: Tensor,
    image: Tensor,
    rope: tuple[Tensor, Tensor],
    attend: Attend,
) -> Tensor:
    """Return image tokens B N D behind all blocks; see `glmkit.models.decoder.model.run_blocks`."""
    steps = BlockSteps(compiled(DecoderBlock.before_attention), compiled(DecoderBlock.after_attention))
    return model.run_blocks(blocks, modulation, text, image, rope, attend, steps)
