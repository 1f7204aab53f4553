"""What every set of training images offers, sets joined to one, and images sorted by what may share a batch.

B batch, H W rows and columns in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from glmkit.inputs.quotes import rendered_texts

# Images of one size share a batch, and edits those with condition images of the same sizes: height, width, and the
# sizes of the condition images, of which only edits have any. None: an image that is never trained on itself.
Kind = tuple[int, int, tuple[tuple[int, int], ...]]
Bucket = TypeVar("Bucket", tuple[int, int], Kind)


class ImageDataset(Protocol):
    """Captioned images, each with height and width that are multiples of 32.

    The caption of an edit says what was done with others of the images, its condition images, which have any sizes:
    `condition_images` maps the index of an edit to those of its condition images, `rejected` the index of the better
    image of a pair to that of the other one, which has the same caption and size.
    """

    captions: list[str]
    texts: list[tuple[str, ...] | None]
    """What the glyph encoder reads of each caption; None: its texts in quotes."""
    sizes: list[tuple[int, int]]
    condition_images: dict[int, tuple[int, ...]]
    rejected: dict[int, int]
    same_image: dict[int, int]
    """Maps the further captions of an image to its first; of all of them an epoch shows one at random."""
    repeats: list[int]
    """How often an epoch shows each image; 0 for condition images and rejected ones, and for regularization."""
    regularization: list[int]
    """Indices of images that no step learns: what a model generates for them shall stay as it is."""
    keys: list[str] | None
    """A name for the content of each image, for caches on disk; None where images are rendered, not read."""
    text_keys: list[str] | None
    """The same for where text stands in each."""

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Return images of one size as B 3 H W in [-1, 1]."""

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """Return B 1 H W in [0, 1], 1 where text stands; None where that is unknown."""


Datasets = tuple[ImageDataset, ImageDataset]  # training, validation


class ConcatDataset:
    """The images of several sets, one set after the other."""

    def __init__(self, sets: Sequence[ImageDataset]) -> None:
        self.sets = sets
        self._starts = np.cumsum([0] + [len(images.captions) for images in sets])
        starts = self._starts.tolist()[:-1]
        self.captions = [caption for images in sets for caption in images.captions]
        self.texts = [texts for images in sets for texts in images.texts]
        self.sizes = [size for images in sets for size in images.sizes]
        self.repeats = [count for images in sets for count in images.repeats]
        self.regularization = [
            start + index for start, images in zip(starts, sets, strict=True) for index in images.regularization
        ]
        self.keys = _all_keys([images.keys for images in sets])
        self.text_keys = _all_keys([images.text_keys for images in sets])
        self.condition_images: dict[int, tuple[int, ...]] = {}
        self.rejected: dict[int, int] = {}
        self.same_image: dict[int, int] = {}
        for start, images in zip(starts, sets, strict=True):
            for edit, conditions in images.condition_images.items():
                self.condition_images[start + edit] = tuple(start + index for index in conditions)
            self.rejected |= {start + index: start + other for index, other in images.rejected.items()}
            self.same_image |= {start + index: start + first for index, first in images.same_image.items()}

    def gather(self, read: Callable[[ImageDataset, list[int]], Tensor | None], indices: Sequence[int]) -> Tensor | None:
        """Return what `read` gives of the set of each image, in the order of `indices`; None where one gives None."""
        numbers = np.asarray(indices)
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        chunks, positions = [], []
        for owner in np.unique(owners):
            (members,) = np.nonzero(owners == owner)
            chunk = read(self.sets[owner], (numbers[members] - self._starts[owner]).tolist())
            if chunk is None:
                return None
            chunks.append(chunk)
            positions.append(members)
        return torch.cat(chunks)[torch.from_numpy(np.argsort(np.concatenate(positions))).to(chunks[0].device)]

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Return images of one size as B 3 H W in [-1, 1]."""
        pixels = self.gather(lambda images, members: images.pixels(members, device), indices)
        assert pixels is not None
        return pixels

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """Return B 1 H W in [0, 1], 1 where text stands; None where that is unknown of a set."""
        return self.gather(lambda images, members: images.text_mask(members, device), indices)


def _all_keys(keys: Sequence[list[str] | None]) -> list[str] | None:
    """Join the keys of all sets; None where one has none."""
    return None if None in keys else [key for of_set in keys for key in of_set or ()]


def kinds(images: ImageDataset) -> list[Kind]:
    """Return what the images of one batch have in common: height, width, and the sizes of their condition images."""
    conditions = images.condition_images
    return [
        (*size, tuple(images.sizes[other] for other in conditions.get(index, ())))
        for index, size in enumerate(images.sizes)
    ]


def kind_name(kind: Kind) -> str:
    """Name a kind for people: 64x32, 64x32 edits, 64x32 edits of 96x96 + 64x32."""
    height, width, conditions = kind
    name = f"{width}x{height}{' edits' * bool(conditions)}"
    if conditions in ((), ((height, width),)):
        return name
    return f"{name} of {' + '.join(f'{columns}x{rows}' for rows, columns in conditions)}"


def buckets(images: ImageDataset) -> list[Kind | None]:
    """Return the kind of every image that an epoch shows, None for others."""
    return [kind if count else None for kind, count in zip(kinds(images), images.repeats, strict=True)]


def one_bucket(kinds: Sequence[Kind | None]) -> list[Kind | None]:
    """Give all images one kind, for batches of images of any sizes."""
    first = next(kind for kind in kinds if kind is not None)
    return [None if kind is None else first for kind in kinds]


def kinds_with_caption(images: ImageDataset) -> list[Kind | None]:
    """Return the kind of every image whose caption is read: those that are shown, rejected or for regularization."""
    read = {index for index, count in enumerate(images.repeats) if count} | set(images.regularization)
    read |= set(images.rejected.values())
    read |= {index for index, first in images.same_image.items() if images.repeats[first]}
    return [kind if index in read else None for index, kind in enumerate(kinds(images))]


def glyph_texts(images: ImageDataset) -> list[list[str]]:
    """Return what the glyph encoder reads of every caption: its texts in quotes, unless others are given."""
    both = zip(images.captions, images.texts, strict=True)
    return [rendered_texts(caption, texts) for caption, texts in both]


def by_size(sizes: Sequence[Bucket | None]) -> dict[Bucket, list[int]]:
    """Return the indices of the images of every size, in order of size; of every size and kind for `buckets`."""
    members: dict[Bucket, list[int]] = {size: [] for size in sorted({size for size in sizes if size is not None})}
    for index, size in enumerate(sizes):
        if size is not None:
            members[size].append(index)
    return members


def first_batches(sizes: Sequence[Bucket | None], batch_size: int, limit: int) -> list[list[int]]:
    """Return the first images of every size, about `limit` in all, in batches of at most `batch_size` of one size."""
    members = by_size(sizes)
    total = sum(map(len, members.values()))
    chosen = [of_size[: max(1, round(len(of_size) * min(1, limit / total)))] for of_size in members.values()]
    return [of_size[start : start + batch_size] for of_size in chosen for start in range(0, len(of_size), batch_size)]
