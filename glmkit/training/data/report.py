"""What a set of training pictures holds, to be read before training: counts, sizes, changes, and what was left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass

from glmkit.models.glyph import quoted_spans
from glmkit.training.data.files import FilePictures
from glmkit.training.data.pictures import Joined, Pictures, buckets, by_size

SHOWN_DROPPED = 10


@dataclass(frozen=True)
class Report:
    """`pictures` and `edits` of an epoch, repeats counted; `buckets`: different ones of each size, edits apart.

    `preserved`: pictures that nothing is learnt from; `same`: those that another one equals to the last pixel;
    `unquoted`: captions without quoted text, of which the glyph encoder reads nothing. `content`: a digest of all that
    training reads of them.
    """

    pictures: int
    edits: int
    preserved: int
    same: int
    unquoted: int
    buckets: dict[str, int]
    changes: dict[str, int]
    dropped: tuple[str, ...]
    content: str

    def lines(self, name: str, batch_size: int) -> list[str]:
        """For people; buckets that cannot fill a batch of `batch_size` are named, since their pictures show more."""
        edits = f", {self.edits} of them edits" if self.edits else ""
        sizes = ", ".join(f"{size}: {count}" for size, count in self.buckets.items())
        lines = [f"{name}: {self.pictures} pictures{edits}; {sizes}"]
        notes = {
            "more are only preserved": self.preserved,
            "equal another one": self.same,
            "captions quote no text": self.unquoted,
        }
        lines += [f"  {count} {note}" for note, count in {**notes, **self.changes}.items() if count]
        if thin := [size for size, count in self.buckets.items() if count < batch_size]:
            lines.append(f"  fewer than a batch of {batch_size}, so shown more often: {', '.join(thin)}")
        lines += [f"  left out: {reason}" for reason in self.dropped[:SHOWN_DROPPED]]
        if len(self.dropped) > SHOWN_DROPPED:
            lines.append(f"  left out: {len(self.dropped) - SHOWN_DROPPED} more")
        return lines


def lines(pictures: tuple[Pictures, Pictures], batch_size: int) -> list[str]:
    """Both sets, training and held-out, for people."""
    train, held_out = pictures
    told = [*of(train).lines("train", batch_size), *of(held_out).lines("held out", 1)]
    if both := len({*_contents(train)} & {*_contents(held_out)}):
        told.append(f"  {both} of them are trained on, too, so that nobody can see over-fitting")
    return told


def _contents(pictures: Pictures) -> list[str]:
    """The content of every picture that is learnt; nothing of pictures that are drawn."""
    return [key for key, count in zip(pictures.keys or [], pictures.repeats, strict=False) if count]


def of(pictures: Pictures) -> Report:
    """The report on one set."""
    kinds = by_size(buckets(pictures))
    parts = pictures.sets if isinstance(pictures, Joined) else [pictures]
    read = [part for part in parts if isinstance(part, FilePictures)]
    changes: Counter[str] = sum((part.changes for part in read), Counter())
    contents = _contents(pictures)
    shown = [caption for caption, count in zip(pictures.captions, pictures.repeats, strict=True) if count]
    return Report(
        sum(pictures.repeats),
        sum(pictures.repeats[edit] for edit in pictures.sources),
        len(pictures.preserved),
        len(contents) - len(set(contents)),
        sum(not quoted_spans(caption) for caption in shown),
        {f"{width}x{height}{' edits' * is_edit}": len(own) for (height, width, is_edit), own in kinds.items()},
        dict(sorted(changes.items())),
        tuple(" ".join(str(error).split()) for part in read for error in part.dropped),
        _digest(pictures),
    )


def _digest(pictures: Pictures) -> str:
    names = ("keys", "text_keys", "captions", "sizes", "repeats", "preserved")
    content = [*(getattr(pictures, name) for name in names), sorted(pictures.sources.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
