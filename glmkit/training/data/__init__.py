"""Training images with captions from files, sorted into batches. One interface for all of them: `ImageDataset`."""

from __future__ import annotations

from glmkit import config, shipped
from glmkit.training.data.batches import Batches
from glmkit.training.data.dataset import (
    ConcatDataset,
    Datasets,
    ImageDataset,
    buckets,
    by_size,
    first_batches,
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
    "buckets",
    "by_size",
    "first_batches",
    "kinds_with_caption",
    "load",
    "one_bucket",
]


def load(data: config.Data) -> Datasets:
    """Load the training and the validation images of a recipe."""
    assert data.validation is not None
    sets = [FileDataset(shipped.find(one.path), data, one.repeats, one.regularization) for one in data.train]
    return sets[0] if len(sets) == 1 else ConcatDataset(sets), FileDataset(shipped.find(data.validation), data)
