"""Ways to compute a decoding step, equal to `AutoregressiveModel.decode_step` but for rounding, and the choice of one.

eager            the plain layers, one operation after another
compiled_layers  what surrounds attention in a layer compiled by torch, once for all layers
cpu              all layers of a small model on a CPU as one compiled function
gpu              Triton kernels, eight launches per layer, for up to 64 sequences on a Hopper; with packed weights,
                 whose matrices would else be unpacked at every step, from Ampere on
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from glmkit.models.autoregressive import compiled_layers, cpu, eager
from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache
from glmkit.models.devices import HOPPER, triton_runs
from glmkit.models.quantized import PackedLinear


class DecodeBackend(Protocol):
    """A module that decodes one token of each sequence; where not every model suits it, `supports(model)` tells."""

    READS_KV_LENGTH: bool  # whether one step reads the first `kv_length` positions, rather than those in use
    USES_TRITON: bool

    def decode_step(
        self,
        model: AutoregressiveModel,
        ids_B: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        input_pos_B: Tensor,
        cache: KVCache,
        kv_length: int,
        /,
    ) -> Tensor:
        """Return logits B V as `AutoregressiveModel.decode_step` does."""
        ...


def choose_backend(model: AutoregressiveModel, batch: int, *, optimized: bool) -> DecodeBackend:
    """Return the fastest way for this model, its device and so many sequences; `eager` unless `optimized`."""
    if not optimized:
        return eager
    if suits_kernels(model.language_model.norm.weight, packed=isinstance(model.lm_head, PackedLinear)):
        from glmkit.models.autoregressive import gpu  # which Triton's absence would not let in

        if batch <= gpu.MAX_BATCH and gpu.supports(model):
            return gpu
    return cpu if cpu.supports(model) else compiled_layers


def suits_kernels(weight: Tensor, packed: bool = False) -> bool:
    """Return whether the kernels run here, for the type of this weight, and their plans were made for its GPU.

    Packed matrices need them on every GPU that has them.
    """
    if not weight.is_cuda or weight.dtype.itemsize != 2:
        return False
    return (packed or torch.cuda.get_device_capability(weight.device)[0] == HOPPER) and triton_runs(weight.device)
