"""What the features of images tell, beside what is written in them: CLIP alignment, distances to reference sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from glmkit.evaluation import alignment
from glmkit.evaluation.features.extractors.clip import Clip
from glmkit.evaluation.reference_sets import compare
from glmkit.evaluation.reference_sets.sources import Images
from glmkit.records import Generation, Score, Summary


@dataclass(frozen=True)
class Measures:
    """Loaded before a model draws, so that whatever is missing shows at once."""

    clip: Clip | None
    sets: Sequence[compare.Ready]
    device: str

    @classmethod
    def load(cls, clip_name: str | None, names: Sequence[str], device: str) -> Measures:
        """UserError when a set is unknown or unfinished, or when weights are not there."""
        sets = compare.ready(names, device)
        return cls(Clip(clip_name, device) if clip_name else None, sets, device)

    def scores(self, folder: Path, rows: Sequence[Generation], scores: Sequence[Score]) -> list[Score]:
        """The scores of the images with their cosines."""
        return list(scores) if self.clip is None else alignment.align(self.clip, folder, rows, scores)

    def summary(self, folder: Path, rows: Sequence[Generation], scores: Sequence[Score], summary: Summary) -> Summary:
        """The summary with the mean cosine and the distances."""
        if self.clip is not None:
            summary = alignment.summarised(summary, self.clip, rows, scores)
        found = compare.distances(Images(folder, tuple(rows)), self.sets, self.device)
        return replace(summary, distances=tuple(distance.to_dict() for distance in found))
