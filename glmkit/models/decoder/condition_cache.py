"""Keys and values of condition images: computed once per image, read by the target at every step.

Shapes as in `glmkit.models`; S are the tokens of all condition images of one sample together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class KeyValue(NamedTuple):
    """Keys and values of one layer, both B K tokens d, after normalisation and rotation."""

    key: Tensor
    value: Tensor

    @classmethod
    def join(cls, pairs: Sequence[KeyValue], dim: int) -> KeyValue:
        """Concatenate keys and values along a dimension; a single pair stays as it is."""
        if len(pairs) == 1:
            return pairs[0]
        return cls(torch.cat([pair.key for pair in pairs], dim), torch.cat([pair.value for pair in pairs], dim))

    def owned(self) -> KeyValue:
        """Return both, all heads of a token together, in memory that holds nothing else.

        As views of a product of queries, keys and values they would hold all of it, three times the values.
        """
        return KeyValue(*(states.transpose(1, 2).contiguous().transpose(1, 2) for states in self))

    def before(self, states: KeyValue) -> KeyValue:
        """Return keys and values with others behind them, laid out as `owned`."""
        pairs = zip(self, states, strict=True)
        return KeyValue(*(torch.cat([one.transpose(1, 2) for one in pair], dim=1).transpose(1, 2) for pair in pairs))

    def padded(self, length: int) -> KeyValue:
        """Return both with zeros behind the tokens, `length` tokens in all."""
        missing = (0, 0, 0, length - self.key.shape[2])
        return KeyValue(F.pad(self.key, missing), F.pad(self.value, missing))


@dataclass(frozen=True)
class ConditionCache:
    """Hold what a target may read of its condition images: every layer's keys and values, and which of them exist.

    `layers` has L entries of B K S d. `mask` is B S, False where a sample has fewer tokens than the longest; None when
    every entry is real.
    """

    layers: tuple[KeyValue, ...]
    mask: Tensor | None = None

    @classmethod
    def join(cls, images: Sequence[Sequence[KeyValue]]) -> ConditionCache:
        """Put several condition images of the same samples behind one another; each gives one entry per layer."""
        return cls(tuple(KeyValue.join(layer, dim=2) for layer in zip(*images, strict=True)))

    @classmethod
    def batch(cls, samples: Sequence[ConditionCache | None]) -> ConditionCache | None:
        """Join caches of one sample each; None stands for a sample without condition images. All None gives None."""
        present = [sample for sample in samples if sample is not None]
        if not present:
            return None
        lengths = [0 if sample is None else sample.layers[0].key.shape[2] for sample in samples]
        longest = max(lengths)
        layers = []
        for index, layer in enumerate(present[0].layers):
            empty = KeyValue(layer.key[:, :, :0], layer.value[:, :, :0])
            pairs = [empty if sample is None else sample.layers[index] for sample in samples]
            layers.append(KeyValue.join([pair.padded(longest) for pair in pairs], dim=0))
        if min(lengths) == longest:
            return cls(tuple(layers))
        device = layers[0].key.device
        mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        return cls(tuple(layers), mask)

    def visible_where(self, conditional_B: Tensor) -> ConditionCache:
        """Return the same cache for samples where `conditional_B` is True; the others read it as if it were empty."""
        tokens = self.layers[0].key.shape[2]
        mask = conditional_B[:, None].expand(-1, tokens)
        return ConditionCache(self.layers, mask if self.mask is None else mask & self.mask)
