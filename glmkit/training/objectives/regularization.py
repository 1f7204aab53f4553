"""Prior preservation: what adapters change is held near what the model says without them.

The distance is taken on the images of the training step, or on images that are there for nothing else (DreamBooth's
class images, arXiv:2208.12242), to the frozen model itself in place of its samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from glmkit.training.data import ImageDataset, by_size, kinds_with_caption


class RegularizationImages:
    """Chooses the images on which a training step is held to the model without adapters."""

    def __init__(self, images: ImageDataset) -> None:
        kinds, chosen = kinds_with_caption(images), set(images.regularization)
        members = by_size([kind if index in chosen else None for index, kind in enumerate(kinds)])
        self._members = list(members.values())

    def __bool__(self) -> bool:
        """Tell whether there are images for regularization alone."""
        return bool(self._members)

    def __call__(self, indices: Sequence[int], generator: torch.Generator) -> Sequence[int]:
        """Return `indices` themselves, or as many regularization images of one kind, each with the same chance."""
        if not self._members:
            return indices
        rng = np.random.default_rng(generator.initial_seed() ^ 3)
        counts = np.array([len(members) for members in self._members])
        members = self._members[rng.choice(len(counts), p=counts / counts.sum())]
        chosen: list[int] = rng.choice(members, len(indices)).tolist()
        return chosen


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Have the frozen model as it was before anything was learnt, without gradients, while this lasts."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
