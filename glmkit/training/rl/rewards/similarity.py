"""How like the image of the base model an image is: the cosine of their features.

For the decoder, whose prior tokens fix the layout, this holds images where they were. An AR model may lay out anew.
"""

from __future__ import annotations

import numpy as np

from glmkit.errors import unknown
from glmkit.evaluation.features import extractors
from glmkit.evaluation.features.extractors import Extractor, slug
from glmkit.evaluation.metrics.clip import DEFAULT
from glmkit.training.rl.rewards import RewardSample

ABOUT = f"cosine with the base model's image, by similarity:FEATURES (clip:{DEFAULT}): -1 to 1"
MIN_STD = 0.01


class SimilarityReward:
    """Compare features with those of the base image."""

    reads_text, needs_base, gates, is_slow = False, True, False, False

    def __init__(self, extractor: Extractor) -> None:
        self.extractor, self.identity = extractor, slug(extractor)

    def score(self, sample: RewardSample) -> float | None:
        """Score by the cosine of both features."""
        assert sample.base is not None
        here, before = self.extractor.extract([sample.image, sample.base]).astype(np.float64)
        return float(here @ before / np.linalg.norm(here) / np.linalg.norm(before))


def check(what: str) -> None:
    """UserError for features that are none."""
    kind = what.partition(":")[0]
    if kind and kind not in extractors.names():
        raise unknown("features", kind, extractors.names())


def load(what: str, device: str) -> SimilarityReward:
    """Load the features of that name, by default those of CLIP."""
    return SimilarityReward(extractors.load(what or f"clip:{DEFAULT}", device))
