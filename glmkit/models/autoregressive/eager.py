"""A decoding step by the plain layers."""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor

from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache
from glmkit.models.cpu_threads import threads

READS_KV_LENGTH, USES_TRITON = True, False
SMALL = 512  # units up to which a CPU's threads wait for each other for longer than they compute


def decode_step(
    model: AutoregressiveModel,
    ids_B: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    input_pos_B: Tensor,
    cache: KVCache,
    kv_length: int,
) -> Tensor:
    """Return logits B V; see `AutoregressiveModel.decode_step`."""
    is_small = ids_B.device.type == "cpu" and model.config.hidden_size <= SMALL
    with threads(1) if is_small else nullcontext():
        return model.decode_step(ids_B, cos_sin, input_pos_B, cache, kv_length)
