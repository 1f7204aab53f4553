"""What a set of training images holds, to be read before training: counts, sizes, changes, and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from glmkit.errors import one_line
from glmkit.hashing import json_sha256
from glmkit.inputs import quotes
from glmkit.training.data.dataset import (
    ConcatDataset,
    Datasets,
    ImageDataset,
    buckets,
    by_size,
    glyph_texts,
    kind_name,
)
from glmkit.training.data.image_files import FileDataset

MAX_SHOWN_REASONS = 10
MAX_SHOWN_TEXTS = 5

NO_VALIDATION = (
    "validation: none, so that no one can see over-fitting: the validation losses are those of training images; "
    "data.validation=0.1 keeps a tenth of them back"
)


@dataclass(frozen=True)
class DatasetSummary:
    """Numbers of one data set.

    `images` and `edits` of an epoch, repeats counted; `buckets`: different ones of each size, edits apart.
    `pairs`: images that have a rejected one; `regularization`: images that nothing is learnt from; `same`: those that
    another one equals to the last pixel; `captions`: those of all images, `several` of some; `unquoted`: captions
    without text for the glyph encoder, neither quoted nor given; `texts`: the first texts that it reads. `quotes`:
    warnings of the first captions whose quotes are read otherwise than they look, `misread` how many there are.
    `notes`: which splits and columns were taken, and what was passed over. `content`: a digest of all that training
    reads of them. `unit`: what is counted, images or prompts.
    """

    images: int
    edits: int
    pairs: int
    regularization: int
    same: int
    captions: int
    several: bool
    unquoted: int
    texts: tuple[str, ...]
    misread: int
    quotes: tuple[str, ...]
    notes: tuple[str, ...]
    buckets: dict[str, int]
    changes: dict[str, int]
    dropped: tuple[str, ...]
    content: str
    unit: str = "images"

    def lines(self, name: str, batch_size: int) -> list[str]:
        """Tell people; buckets that cannot fill a batch of `batch_size` are named, since their images show more."""
        edits = f", {self.edits} of them edits" if self.edits else ""
        sizes = ", ".join(f"{size}: {count}" for size, count in self.buckets.items())
        lines = [f"{name}: {self.images} {self.unit}{edits}; {sizes}"]
        notes = {
            "have a rejected image, from which only stages with dpo learn": self.pairs,
            "more are for regularization": self.regularization,
            "equal another one": self.same,
            "captions, of which an epoch shows one per image": self.captions * self.several,
            "captions quote no text": self.unquoted,
            "captions have quotes that are not read as they look": self.misread,
        }
        lines += [f"  {count} {note}" for note, count in {**notes, **self.changes}.items() if count]
        lines += [f"  {line}" for line in self.quotes]
        if self.texts:
            lines.append(f"  texts that images show, the first ones: {' | '.join(self.texts)}")
        lines += [f"  {note}" for note in self.notes[:MAX_SHOWN_REASONS]]
        if len(self.notes) > MAX_SHOWN_REASONS:
            lines.append(f"  and {len(self.notes) - MAX_SHOWN_REASONS} more notes, which --json shows")
        if thin := {size: count for size, count in self.buckets.items() if count < batch_size}:
            shown = ", ".join(f"{size} ({count} for {batch_size} places)" for size, count in thin.items())
            lines.append(f"  fewer than a batch of {batch_size}, so that a batch repeats images: {shown}")
        lines += [f"  left out: {reason}" for reason in self.dropped[:MAX_SHOWN_REASONS]]
        if len(self.dropped) > MAX_SHOWN_REASONS:
            lines.append(f"  left out: {len(self.dropped) - MAX_SHOWN_REASONS} more")
        return lines


def lines(datasets: Datasets, batch_size: int) -> list[str]:
    """Tell people of both sets, training and validation."""
    train, validation = datasets
    lines = summarize(train).lines("train", batch_size)
    if validation is train and train.keys is not None:
        return [*lines, NO_VALIDATION]
    lines += summarize(validation).lines("validation", 1)
    if both := len({*_learnt_contents(train)} & {*_learnt_contents(validation)}):
        lines.append(f"  {both} of them are trained on, too, so that no one can see over-fitting")
    return lines


def summaries(datasets: Datasets) -> dict[str, DatasetSummary]:
    """Count what both sets hold, training and validation."""
    return {name: summarize(images) for name, images in zip(("train", "validation"), datasets, strict=True)}


def _learnt_contents(images: ImageDataset) -> list[str]:
    """Return the content of every image that is learnt; nothing of images that are rendered."""
    return [key for key, count in zip(images.keys or [], images.repeats, strict=False) if count]


def file_sets(images: ImageDataset) -> list[FileDataset]:
    """Return the sets of images from files that a set is, or is joined from."""
    parts = images.sets if isinstance(images, ConcatDataset) else [images]
    return [part for part in parts if isinstance(part, FileDataset)]


def summarize(images: ImageDataset) -> DatasetSummary:
    """Count what one set holds."""
    kinds = by_size(buckets(images))
    files = file_sets(images)
    changes: Counter[str] = sum((part.changes for part in files), Counter())
    contents = _learnt_contents(images)
    read = _read_indices(images)
    texts = glyph_texts(images)
    warned = [
        lines for index in read if images.texts[index] is None and (lines := quotes.warnings(images.captions[index]))
    ]
    return DatasetSummary(
        images=sum(images.repeats),
        edits=sum(images.repeats[edit] for edit in images.condition_images),
        pairs=sum(images.repeats[index] for index in images.rejected),
        regularization=len(images.regularization),
        same=len(contents) - len(set(contents)),
        captions=len(read),
        several=bool(images.same_image),
        unquoted=sum(not texts[index] for index in read),
        texts=tuple(
            quotes.shortened(text)
            for text in islice((text for index in read for text in texts[index]), MAX_SHOWN_TEXTS)
        ),
        misread=len(warned),
        quotes=tuple(line.strip() for lines in warned[:MAX_SHOWN_TEXTS] for line in lines),
        notes=tuple(note for part in files for note in part.notes),
        buckets={kind_name(kind): len(members) for kind, members in kinds.items()},
        changes=dict(sorted(changes.items())),
        dropped=tuple(one_line(error) for part in files for error in part.dropped),
        content=_digest(images),
        unit=getattr(images, "unit", "images"),
    )


def _read_indices(images: ImageDataset) -> list[int]:
    """Return the indices of the captions that are learnt, all those of an image among them."""
    return [
        index
        for index, count in enumerate(images.repeats)
        if count or images.repeats[images.same_image.get(index, index)]
    ]


def _edits(images: ImageDataset) -> list[tuple[int, int | tuple[int, ...]]]:
    """Return edits with their condition images; the content of those with one is named as before there were several."""
    edits = sorted(images.condition_images.items())
    return [(index, conditions if len(conditions) > 1 else conditions[0]) for index, conditions in edits]


def _digest(images: ImageDataset) -> str:
    names = ("keys", "text_keys", "captions", "sizes", "repeats", "regularization")
    content = [*(getattr(images, name) for name in names), _edits(images)]
    if any(
        texts is not None for texts in images.texts
    ):  # others keep the name that they had before texts could be given
        content.append(images.texts)
    if images.rejected:
        content.append(sorted(images.rejected.items()))
    return json_sha256(content)[:16]
