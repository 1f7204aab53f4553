"""The decoder's blocks as they are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glmkit.models.decoder import model
from glmkit.models.decoder.model import Attend, DecoderBlock

PADS_TEXT, USES_TRITON = False, False


def run_blocks(
    blocks: Sequence[DecoderBlock],
    modulation: Sequence[Tensor],
    text: Tensor,
    image: Tensor,
    rope: tuple[Tensor, Tensor],
    attend: Attend,
) -> Tensor:
    """Return image tokens B N D behind all blocks; see `glmkit.models.decoder.model.run_blocks`."""
    return model.run_blocks(blocks, modulation, text, image, rope, attend)
