"""A decoding step whose small operations torch.compile fuses.

What comes before and after attention is compiled once for all layers, attention for any number of keys.
"""

from __future__ import annotations

from torch import Tensor

from glmkit.models.autoregressive.model import (
    AutoregressiveModel,
    CausalLayer,
    KVCache,
    LayerSteps,
    attend_to_cache,
    project_new_token,
)
from glmkit.models.compiling import compiled

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
    steps = LayerSteps(
        compiled(project_new_token), compiled(attend_to_cache, dynamic=True), compiled(CausalLayer.after_attention)
    )
    return model.decode_step(ids_B, cos_sin, input_pos_B, cache, kv_length, steps)
