"""What every set of training images offers, sets joined to one, and images sorted by what may share a batch.

B batch, H W rows and columns in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

# Images of one size share a batch, and edits share none with others: (height, width) or (height, width, is edit).
# None: an image that is never trained on itself.
Bucket = TypeVar("Bucket", tuple[int, int], tuple[int, int, bool])


class ImageDataset(Protocol):
    """Captioned images, each with height and width that are multiples of 32.

    The caption of an edit says what was done with another of the images, its condition image, which has the same
    size: `condition_images` maps the index of an edit to that of its condition image.
    """

    captions: list[str]
    sizes: list[tuple[int, int]]
    condition_images: dict[int, int]
    repeats: list[int]
    """How often an epoch shows each image; 0 for one that is only the condition image of an edit, or for regularization."""
    regularization: list[int]
    """Numbers of images that no step learns: what a model draws for them shall stay as it is."""
    keys: list[str] | None
    """A name for the content of each image, for caches on disk; None where images are drawn, not read."""
    text_keys: list[str] | None
    """The same for where text stands in each."""

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Images of one size as B 3 H W in [-1, 1]."""

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """B 1 H W in [0, 1], 1 where text is drawn; None where nobody knows."""


Datasets = tuple[ImageDataset, ImageDataset]  # training, validation


class ConcatDataset:
    """The images of several sets, one set after the other."""

    def __init__(self, sets: Sequence[ImageDataset]) -> None:
        self.sets = sets
        self._starts = np.cumsum([0] + [len(images.captions) for images in sets])
        self.captions = [caption for images in sets for caption in images.captions]
        self.sizes = [size for images in sets for size in images.sizes]
        self.repeats = [count for images in sets for count in images.repeats]
        starts = self._starts.tolist()
        self.regularization = [
            start + own for start, one in zip(starts, sets, strict=False) for own in one.regularization
        ]
        self.keys = _joined([images.keys for images in sets])
        self.text_keys = _joined([images.text_keys for images in sets])
        self.condition_images = {
            start + edit: start + condition_image
            for start, images in zip(starts, sets, strict=False)
            for edit, condition_image in images.condition_images.items()
        }

    def gather(self, ask: Callable[[ImageDataset, list[int]], Tensor | None], indices: Sequence[int]) -> Tensor | None:
        """Return what `ask` gets from the set of each image, in the order of `indices`; None where a set does not know."""
        numbers = np.asarray(indices)
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        parts, places = [], []
        for owner in np.unique(owners):
            (own,) = np.nonzero(owners == owner)
            part = ask(self.sets[owner], (numbers[own] - self._starts[owner]).tolist())
            if part is None:
                return None
            parts.append(part)
            places.append(own)
        return torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(places))).to(parts[0].device)]

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        pixels = self.gather(lambda images, own: images.pixels(own, device), indices)
        assert pixels is not None
        return pixels

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return self.gather(lambda images, own: images.text_mask(own, device), indices)


def _joined(keys: Sequence[list[str] | None]) -> list[str] | None:
    """The keys of all sets; None where one has none."""
    return None if None in keys else [key for own in keys for key in own or ()]


def kinds(images: ImageDataset) -> list[tuple[int, int, bool]]:
    """What the images of one batch have in common: height, width, and whether they are edits."""
    return [(*size, index in images.condition_images) for index, size in enumerate(images.sizes)]


def buckets(images: ImageDataset) -> list[tuple[int, int, bool] | None]:
    """The kind of every image that an epoch shows, None for others."""
    return [kind if count else None for kind, count in zip(kinds(images), images.repeats, strict=True)]


def together(kinds: Sequence[tuple[int, int, bool] | None]) -> list[tuple[int, int, bool] | None]:
    """All of one kind, for batches of images of any sizes."""
    one = next(kind for kind in kinds if kind is not None)
    return [None if kind is None else one for kind in kinds]


def asked_for(images: ImageDataset) -> list[tuple[int, int, bool] | None]:
    """The kind of every image whose caption is read: those that are shown and those for regularization."""
    others = set(images.regularization)
    both = zip(buckets(images), kinds(images), strict=True)
    return [kind if index in others else shown for index, (shown, kind) in enumerate(both)]


def by_size(sizes: Sequence[Bucket | None]) -> dict[Bucket, list[int]]:
    """The indices of the images of every size, in order of size; of every size and kind for `buckets`."""
    members: dict[Bucket, list[int]] = {size: [] for size in sorted({size for size in sizes if size is not None})}
    for index, size in enumerate(sizes):
        if size is not None:
            members[size].append(index)
    return members


def groups(sizes: Sequence[Bucket | None], most: int, limit: int) -> list[list[int]]:
    """The first images of every size, about `limit` in all, in lists of at most `most` images of one size."""
    members = by_size(sizes)
    shown = sum(map(len, members.values()))
    chosen = [own[: max(1, round(len(own) * min(1, limit / shown)))] for own in members.values()]
    return [own[start : start + most] for own in chosen for start in range(0, len(own), most)]
