"""Whether there is as much to see as in the image of the base model: a guard against images emptied for their text.

Training on what OCR reads alone darkens images and takes their edges away (`evaluation.metrics.content`).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from glmkit.evaluation.metrics.content import colour_entropy, edge_density
from glmkit.training.rl.rewards import RewardSample, refuse_argument

ABOUT = "as many edges and colours as in the base model's image: 0 (empty, and no other reward counts) to 1"
MIN_STD = 0.05
EMPTY, ENOUGH = 0.3, 0.8  # of the base image's edges or colours: 0 up to the first, 1 from the second on
LEAST = (0.002, 0.05)  # edge density and bits: where the base has less, there is nothing to lose


class ContentReward:
    """Compare edges and colours with those of the base image; whichever has lost more counts."""

    reads_text, needs_base, gates, is_slow = False, True, True, True
    identity = ""

    def score(self, sample: RewardSample) -> float | None:
        """Score by the pixels."""
        assert sample.base is not None
        measured = zip(_measures(sample.image), _measures(sample.base), LEAST, strict=True)
        shares = [here / before for here, before, least in measured if before >= least]
        return min(1.0, max(0.0, (min(shares) - EMPTY) / (ENOUGH - EMPTY))) if shares else None


def _measures(image: Image.Image) -> tuple[float, float]:
    pixels = np.asarray(image.convert("RGB"))
    return edge_density(pixels), colour_entropy(pixels)


def check(what: str) -> None:
    """UserError for anything behind the name."""
    refuse_argument("content", what)


def load(_what: str, _device: str) -> ContentReward:
    """Load nothing."""
    return ContentReward()
