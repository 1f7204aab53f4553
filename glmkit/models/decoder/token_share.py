"""The image tokens of one sample, shared by several processes.

Each process has a part of the image tokens and all glyph tokens, and computes everything for them alone but attention,
which reads the keys and values of all. These are gathered in every block, as the context parallelism of Llama 3 does
(arXiv:2407.21783, section 3.3.2). Two processes exchange as much as Ulysses would (arXiv:2309.14509).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from glmkit.models.decoder.condition_cache import KeyValue


@dataclass(frozen=True)
class TokenShare:
    """One part of `count` equal ones, number `index`, that of this process in torch's `group`."""

    index: int
    count: int
    group: Any = None

    def own(self, tokens: Tensor, dim: int) -> Tensor:
        """Return this process's part of image tokens, which lie along `dim`."""
        return tokens.chunk(self.count, dim)[self.index]

    def gather(self, own: Tensor, dim: int) -> Tensor:
        """Return all image tokens from the part of every process."""
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(parts, own, group=self.group)
        return torch.cat(parts, dim)

    def gather_key_value(self, own: KeyValue, text: int) -> KeyValue:
        """Return keys and values B K T+N d of all tokens from those of T glyph tokens and of this process's part."""
        key, value = self.gather(torch.stack([own.key[:, :, text:], own.value[:, :, text:]]), dim=3)
        return KeyValue(
            torch.cat([own.key[:, :, :text], key], dim=2), torch.cat([own.value[:, :, :text], value], dim=2)
        )
