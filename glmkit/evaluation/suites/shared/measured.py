"""What suites have in common whose images are measured by models of their own, without questions and OCR."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, Suite
from glmkit.records import Generation, Prompt, Score

if TYPE_CHECKING:
    from glmkit.evaluation.features.extractors import Extractor

Features = Mapping[str, np.ndarray]  # image id -> features D


class MeasuredSuite(Suite):
    """Compare features of the images of a run with each other, or with what the benchmark brings."""

    official: OfficialProtocol
    reads_text = False

    @abstractmethod
    def extractors(self, data: Path | None, device: str) -> Sequence[Extractor]:
        """Load the models; UserError says what they need."""

    @abstractmethod
    def measures(
        self,
        prompts: Mapping[str, Prompt],
        images: Sequence[Generation],
        features: Sequence[Features],
        data: Path | None,
    ) -> Mapping[str, Counts]:
        """Count each image by its features, one mapping per extractor, all of the same images."""

    def counts(self, _prompt: Prompt, _lines: Sequence[RecognizedLine], _image: Path) -> Counts:
        """Count nothing in recognized lines."""
        return {}


def add_measures(
    suite: MeasuredSuite,
    extractors: Sequence[Extractor],
    folder: Path,
    prompts: Mapping[str, Prompt],
    images: Sequence[Generation],
    scores: Sequence[Score],
    data: Path | None,
) -> list[Score]:
    """Add what the suite measures to every score; an image that cannot be read gets the error instead."""
    from glmkit.evaluation.features.run_images import features_by_image

    scored = {score.id for score in scores if score.error is None}
    known, errors = [image for image in images if image.id in scored], dict[str, str]()
    features: list[Features] = []
    for extractor in extractors if known else ():
        found, wrong = features_by_image(folder, known, extractor)
        features.append(found)
        errors |= wrong
    readable = [image for image in known if image.id not in errors]
    counts = suite.measures(prompts, readable, features, data) if readable else {}
    return [
        replace(score, error=errors[score.id])
        if score.id in errors
        else replace(score, counts={**score.counts, **counts.get(score.id, {})})
        for score in scores
    ]


def identity_of(extractors: Sequence[Extractor]) -> EngineIdentity:
    """Name the models with their weights."""
    weights = {one.label: str(one.conventions["weights_sha256"]) for one in extractors}
    return EngineIdentity(" + ".join(one.label for one in extractors), weights)
