"""Which pictures make up which step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glmkit.training.data.pictures import Bucket, by_size


class Batches:
    """Which pictures make up which step: a pure function of seed and step, so that a resumed run sees the same order.

    Pictures of one size share a batch. An epoch shows every picture once, or as often as `repeats` says, in an order
    drawn from (seed, epoch); the last batch of a size is filled up from the start of its own shuffled list.
    """

    def __init__(
        self, sizes: Sequence[Bucket | None], batch_size: int, seed: int, repeats: Sequence[int] | None = None
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        times = np.ones(len(sizes), dtype=int) if repeats is None else np.asarray(repeats)
        self.buckets = [np.repeat(members, times[members]) for members in by_size(sizes).values()]
        self.per_epoch = sum(-(-len(bucket) // batch_size) for bucket in self.buckets)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def __getitem__(self, step: int) -> list[int]:
        """Indices of the pictures of `step` (0, 1, ...)."""
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[list[int]] = []
        for bucket in self.buckets:
            order = rng.permutation(bucket)
            count = -(-len(order) // self.batch_size)
            batches += np.resize(order, (count, self.batch_size)).tolist()
        return [batches[index] for index in rng.permutation(len(batches))]
