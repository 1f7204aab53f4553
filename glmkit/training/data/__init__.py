"""Training images with captions from files, sorted into batches. One interface for all of them: `ImageDataset`."""

from __future__ import annotations

from collections.abc import Sequence

from glmkit import config
from glmkit.errors import UserError
from glmkit.training.data.batches import Batches
from glmkit.training.data.dataset import (
    ConcatDataset,
    Datasets,
    ImageDataset,
    Kind,
    buckets,
    by_size,
    first_batches,
    glyph_texts,
    kind_name,
    kinds,
    kinds_with_caption,
    one_bucket,
)
from glmkit.training.data.image_files import FileDataset, share_buckets

__all__ = [
    "Batches",
    "ConcatDataset",
    "Datasets",
    "FileDataset",
    "ImageDataset",
    "Kind",
    "buckets",
    "by_size",
    "first_batches",
    "glyph_texts",
    "kind_name",
    "kinds",
    "kinds_with_caption",
    "load",
    "one_bucket",
]


def load(data: config.Data, batch_size: int = 1) -> Datasets:
    """Load the training and the validation images of a recipe; these are a share of the others, where it asks for one.

    Without validation images the losses of training images are measured in their place. Training images whose shape is
    too rare for a batch of `batch_size` take that of others (see `bucketing.share_buckets`).
    """
    sets = [FileDataset(one.path, data, one.repeats, one.regularization) for one in data.train]
    kept: list[FileDataset] = []
    if isinstance(data.validation, str):
        kept = [FileDataset(data.validation, data, role="validation")]
    elif data.validation is not None:
        kept = _held_back([images for images in sets if not images.regularization], data.validation)
    if data.fit == "crop":
        share_buckets([images for images in sets if not images.regularization], batch_size, data.max_crop)
    train = _joined(sets)
    return train, _joined(kept) if kept else train


def _held_back(sets: Sequence[FileDataset], share: float) -> list[FileDataset]:
    """Take a share of the images out of each set, and at least one of the largest."""
    different = [images.n_different for images in sets]
    counts = [min(round(share * count), count - 1) for count in different]
    largest = different.index(max(different))
    counts[largest] = max(1, counts[largest])
    if different[largest] == 1:
        raise UserError(
            "one image, or one prompt of pairs, is too little to keep some back",
            fix="data.validation=FOLDER, or =null for none",
        )
    return [images.hold_back(count) for images, count in zip(sets, counts, strict=True) if count]


def _joined(sets: Sequence[FileDataset]) -> ImageDataset:
    return sets[0] if len(sets) == 1 else ConcatDataset(sets)
