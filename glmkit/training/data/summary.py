"""What a set of training images holds, to be read before training: counts, sizes, changes, and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from glmkit.hashing import json_sha256
from glmkit.models.glyph.model import quoted_texts
from glmkit.training.data.dataset import ConcatDataset, Datasets, ImageDataset, buckets, by_size
from glmkit.training.data.image_files import FileDataset

MAX_SHOWN_REASONS = 10


@dataclass(frozen=True)
class DatasetSummary:
    """Numbers of one data set.

    `images` and `edits` of an epoch, repeats counted; `buckets`: different ones of each size, edits apart.
    `regularization`: images that nothing is learnt from; `same`: those that another one equals to the last pixel;
    `unquoted`: captions without quoted text, of which the glyph encoder reads nothing. `content`: a digest of all that
    training reads of them.
    """

    images: int
    edits: int
    regularization: int
    same: int
    unquoted: int
    buckets: dict[str, int]
    changes: dict[str, int]
    dropped: tuple[str, ...]
    content: str

    def lines(self, name: str, batch_size: int) -> list[str]:
        """Tell people; buckets that cannot fill a batch of `batch_size` are named, since their images show more."""
        edits = f", {self.edits} of them edits" if self.edits else ""
        sizes = ", ".join(f"{size}: {count}" for size, count in self.buckets.items())
        lines = [f"{name}: {self.images} images{edits}; {sizes}"]
        notes = {
            "more are for regularization": self.regularization,
            "equal another one": self.same,
            "captions quote no text": self.unquoted,
        }
        lines += [f"  {count} {note}" for note, count in {**notes, **self.changes}.items() if count]
        if thin := [size for size, count in self.buckets.items() if count < batch_size]:
            lines.append(f"  fewer than a batch of {batch_size}, so shown more often: {', '.join(thin)}")
        lines += [f"  left out: {reason}" for reason in self.dropped[:MAX_SHOWN_REASONS]]
        if len(self.dropped) > MAX_SHOWN_REASONS:
            lines.append(f"  left out: {len(self.dropped) - MAX_SHOWN_REASONS} more")
        return lines


def lines(datasets: Datasets, batch_size: int) -> list[str]:
    """Tell people of both sets, training and validation."""
    train, validation = datasets
    lines = [*summarize(train).lines("train", batch_size), *summarize(validation).lines("validation", 1)]
    if both := len({*_learnt_contents(train)} & {*_learnt_contents(validation)}):
        lines.append(f"  {both} of them are trained on, too, so that no one can see over-fitting")
    return lines


def _learnt_contents(images: ImageDataset) -> list[str]:
    """Return the content of every image that is learnt; nothing of images that are rendered."""
    return [key for key, count in zip(images.keys or [], images.repeats, strict=False) if count]


def summarize(images: ImageDataset) -> DatasetSummary:
    """Count what one set holds."""
    kinds = by_size(buckets(images))
    parts = images.sets if isinstance(images, ConcatDataset) else [images]
    read = [part for part in parts if isinstance(part, FileDataset)]
    changes: Counter[str] = sum((part.changes for part in read), Counter())
    contents = _learnt_contents(images)
    captions = [caption for caption, count in zip(images.captions, images.repeats, strict=True) if count]
    return DatasetSummary(
        images=sum(images.repeats),
        edits=sum(images.repeats[edit] for edit in images.condition_images),
        regularization=len(images.regularization),
        same=len(contents) - len(set(contents)),
        unquoted=sum(not quoted_texts(caption) for caption in captions),
        buckets={
            f"{width}x{height}{' edits' * is_edit}": len(members) for (height, width, is_edit), members in kinds.items()
        },
        changes=dict(sorted(changes.items())),
        dropped=tuple(" ".join(str(error).split()) for part in read for error in part.dropped),
        content=_digest(images),
    )


def _digest(images: ImageDataset) -> str:
    names = ("keys", "text_keys", "captions", "sizes", "repeats", "regularization")
    content = [*(getattr(images, name) for name in names), sorted(images.condition_images.items())]
    return json_sha256(content)[:16]
