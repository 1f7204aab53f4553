"""A reward that is easily gamed, for tests: how bright an image is, 0 to 1."""

from __future__ import annotations

import numpy as np

from glmkit.training.rl.rewards import RewardSample

ABOUT = "mean luma of the pixels: 0 to 1"
MIN_STD = 0.001


class Brightness:
    """Score an image by its levels alone."""

    reads_text, needs_base, gates, is_slow = False, False, False, False
    identity = ""

    def score(self, sample: RewardSample) -> float | None:
        """Return the mean luma."""
        return float(np.asarray(sample.image.convert("L")).mean() / 255)


def check(_what: str) -> None:
    """Need nothing."""


def load(_what: str, _device: str) -> Brightness:
    """Load nothing."""
    return Brightness()
