"""Training images with captions: read from files, or drawn by `glmkit.posters`. One interface for both."""

from __future__ import annotations

from glmkit import config
from glmkit.generation.sequence import grids
from glmkit.training.data.batches import Batches
from glmkit.training.data.dataset import (
    ConcatDataset,
    Datasets,
    ImageDataset,
    asked_for,
    buckets,
    by_size,
    groups,
    together,
)
from glmkit.training.data.image_files import FileDataset
from glmkit.training.data.posters import EditImages, PosterImages

__all__ = [
    "Batches",
    "EditImages",
    "FileDataset",
    "ConcatDataset",
    "Datasets",
    "ImageDataset",
    "PosterImages",
    "asked_for",
    "buckets",
    "by_size",
    "groups",
    "load",
    "together",
]


def load(data: config.Data) -> tuple[ImageDataset, ImageDataset]:
    """the training and the validation images of a recipe. Validation posters use words that training never sees."""
    if data.train:
        assert data.validation is not None
        sets = [FileDataset(source.path, data, source.repeats, source.regularization) for source in data.train]
        return sets[0] if len(sets) == 1 else ConcatDataset(sets), FileDataset(data.validation, data)
    # Edits first: validation losses look at the first images, and these are edits and descriptions in turn.
    kinds = ((EditImages, data.edits), (PosterImages, data.posters))
    drawn = [
        _drawn(kind, posters, *size, share)
        for kind, posters in kinds
        if posters is not None
        for size, share in posters.shares.items()
    ]
    if len(drawn) == 1:
        return drawn[0]
    train, validation = zip(*drawn, strict=True)
    return ConcatDataset(train), ConcatDataset(validation)


def _drawn(
    kind: type[PosterImages], posters: config.Posters, height: int, width: int, share: float
) -> tuple[ImageDataset, ImageDataset]:
    grids(height, width)  # refuses a size that the model cannot draw
    count, validation = (max(1, round(share * images)) for images in (posters.count, posters.validation))
    shares = {"wide": posters.wide, "aligned": posters.aligned}
    more = {name: share for name, share in shares.items() if share}  # which edits cannot be
    train = kind(count, height, width, posters.seed, posters.workers, "train", **more)
    return train, kind(validation, height, width, posters.seed + 1, posters.workers, "held-out", **more)
