"""A decoding step by the plain layers."""

from __future__ import annotations

from torch import Tensor

from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache

READS_KV_LENGTH, USES_TRITON = True, False


def decode_step(
    model: AutoregressiveModel,
    ids_B: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    input_pos_B: Tensor,
    cache: KVCache,
    kv_length: int,
) -> Tensor:
    """Return logits B V; see `AutoregressiveModel.decode_step`."""
    return model.decode_step(ids_B, cos_sin, input_pos_B, cache, kv_length)
