"""What a set of training pictures holds, to be read before training: counts, sizes, changes, and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from glmkit.training.data.files import FilePictures
from glmkit.training.data.pictures import Joined, Pictures, buckets, by_size

SHOWN_DROPPED = 10


@dataclass(frozen=True)
class Report:
    """`pictures` and `edits` of an epoch, repeats counted; `buckets`: different ones of each size, edits apart."""

    pictures: int
    edits: int
    buckets: dict[str, int]
    changes: dict[str, int]
    dropped: tuple[str, ...]

    def lines(self, name: str, batch_size: int) -> list[str]:
        """For people; buckets that cannot fill a batch of `batch_size` are named, since their pictures show more."""
        edits = f", {self.edits} of them edits" if self.edits else ""
        sizes = ", ".join(f"{size}: {count}" for size, count in self.buckets.items())
        lines = [f"{name}: {self.pictures} pictures{edits}; {sizes}"]
        lines += [f"  {count} {change}" for change, count in self.changes.items()]
        if thin := [size for size, count in self.buckets.items() if count < batch_size]:
            lines.append(f"  fewer than a batch of {batch_size}, so shown more often: {', '.join(thin)}")
        lines += [f"  left out: {reason}" for reason in self.dropped[:SHOWN_DROPPED]]
        if len(self.dropped) > SHOWN_DROPPED:
            lines.append(f"  left out: {len(self.dropped) - SHOWN_DROPPED} more")
        return lines


def lines(pictures: tuple[Pictures, Pictures], batch_size: int) -> list[str]:
    """Both sets, training and held-out, for people."""
    train, held_out = pictures
    return [*of(train).lines("train", batch_size), *of(held_out).lines("held out", 1)]


def of(pictures: Pictures) -> Report:
    """The report on one set."""
    kinds = by_size(buckets(pictures))
    parts = pictures.sets if isinstance(pictures, Joined) else [pictures]
    read = [part for part in parts if isinstance(part, FilePictures)]
    changes: Counter[str] = sum((part.changes for part in read), Counter())
    return Report(
        sum(pictures.repeats),
        sum(pictures.repeats[edit] for edit in pictures.sources),
        {f"{width}x{height}{' edits' * is_edit}": len(own) for (height, width, is_edit), own in kinds.items()},
        dict(sorted(changes.items())),
        tuple(" ".join(str(error).split()) for part in read for error in part.dropped),
    )
