"""Blocks that keep only their inputs, and compute the rest again in the backward pass (gradient checkpointing).

Chen et al. 2016, arXiv:1604.06174: memory for one more forward pass of these blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def checkpointed(block: Callable[..., Any], index: int, every: int, *inputs: Any) -> Any:
    """Return `block(*inputs)`.

    While gradients are recorded, block number `every` - 1 and each `every`-th one after it is computed again in the
    backward pass (0: none).
    """
    if every and (index + 1) % every == 0 and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
