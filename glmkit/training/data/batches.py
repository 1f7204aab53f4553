"""Which images make up which step: a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from glmkit.training.data.dataset import Bucket, by_size


class Batches:
    """Tells which images make up which step, by seed and step alone: a resumed run sees the same order.

    Images of one size share a batch. With `equal_pixels` larger images come fewer to a batch, so that every batch
    has about as many pixels as `batch_size` images of the smallest size; always a multiple of `multiple`. An epoch
    shows every image once, or as often as `repeats` says, in an order generated from (seed, epoch); the last batch of a
    size is filled up from the start of its own shuffled list. `same_image` maps the further captions of an image to its
    first: each time an image is shown, one of them is chosen, with the same chance.
    """

    def __init__(
        self,
        sizes: Sequence[Bucket | None],
        batch_size: int,
        seed: int,
        repeats: Sequence[int] | None = None,
        equal_pixels: bool = False,
        multiple: int = 1,
        same_image: Mapping[int, int] | None = None,
    ) -> None:
        self.seed = seed
        self._captions: dict[int, list[int]] = {}
        for index, first in (same_image or {}).items():
            self._captions.setdefault(first, [first]).append(index)
        counts = np.ones(len(sizes), dtype=int) if repeats is None else np.asarray(repeats)
        members = by_size(sizes)
        smallest = min(height * width for height, width, *_ in members)
        self.buckets = []
        """Images of one size, as often as an epoch shows them, and how many of them make a batch."""
        for (height, width, *_), of_size in members.items():
            size = batch_size * smallest // (height * width) if equal_pixels else batch_size
            self.buckets.append((np.repeat(of_size, counts[of_size]), max(multiple, size // multiple * multiple)))
        self.per_epoch = sum(-(-len(bucket) // size) for bucket, size in self.buckets)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def __getitem__(self, step: int) -> list[int]:
        """Return the indices of the images of `step` (0, 1, ...)."""
        epoch, number = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][number]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[list[int]] = []
        for bucket, size in self.buckets:
            order = rng.permutation(bucket)
            batches += np.resize(order, (-(-len(order) // size), size)).tolist()
        choice = np.random.default_rng([self.seed, epoch, 1])
        return [
            [
                int(choice.choice(self._captions[index])) if index in self._captions else index
                for index in batches[number]
            ]
            for number in rng.permutation(len(batches))
        ]
