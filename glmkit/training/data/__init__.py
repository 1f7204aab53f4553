"""Training images with captions from files, sorted into batches. One interface for all of them: `ImageDataset`."""

from __future__ import annotations

from glmkit import config
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
from glmkit.training.data.image_files import FileDataset

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


def load(data: config.Data) -> Datasets:
    """Load the training and the validation images of a recipe; these are a share of the others, where it asks for one.

    Without validation images the losses of training images are measured in their place.
    """
    sets = [FileDataset(one.path, data, one.repeats, one.regularization) for one in data.train]
    train: ImageDataset = sets[0] if len(sets) == 1 else ConcatDataset(sets)
    if isinstance(data.validation, str):
        return train, FileDataset(data.validation, data, role="validation")
    if data.validation is None:
        return train, train
    kept = [images.hold_back(data.validation) for images in sets if not images.regularization]
    train = sets[0] if len(sets) == 1 else ConcatDataset(sets)
    return train, kept[0] if len(kept) == 1 else ConcatDataset(kept)
