"""How much an edit leaves as it was: what changes least is compared with the condition image.

kept:SHARE says what share of the image may change, half of it by default. Where that is cannot be known without the
truth, so the cells that changed most are left out. An image that nothing is done to keeps all: together with a reward
for the change itself, such as `text`, `edit` or a judge, this one is worth learning from.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from glmkit.errors import UserError
from glmkit.training.rl.rewards import RewardSample

MAY_CHANGE = 0.5
ABOUT = (
    f"likeness to the condition image of an edit where it changes least; kept:SHARE may change ({MAY_CHANGE}): 0 to 1"
)
MIN_STD = 0.05
CELL = 16  # pixels, side of a cell
LOST, KEPT = 15.0, 35.0  # dB: peak signal-to-noise ratio that is worth 0 and 1; a VAE alone costs down to about 35


class KeptReward:
    """Compare an edited image with the first of its condition images."""

    reads_text, needs_base, gates, is_slow = False, False, False, True
    identity = ""

    def __init__(self, may_change: float) -> None:
        self.may_change = may_change

    def score(self, sample: RewardSample) -> float | None:
        """Score by the pixels; nothing is said of an image that edits none."""
        if sample.condition is None:
            return None
        before = sample.condition.convert("RGB").resize(sample.image.size, Image.Resampling.LANCZOS)
        here, there = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (sample.image, before))
        errors = np.sort(_cells(np.square(here - there).mean(axis=2)))
        error = errors[: max(1, round(len(errors) * (1 - self.may_change)))].mean() / 255**2
        return float(np.clip((-10 * np.log10(max(error, 1e-12)) - LOST) / (KEPT - LOST), 0, 1))


def _cells(values: np.ndarray) -> np.ndarray:
    """Average values H W over cells; those at the right and lower edges may be smaller."""
    rows, columns = (np.arange(0, side, CELL) for side in values.shape)
    sums, ones = (np.add.reduceat(np.add.reduceat(of, rows, 0), columns, 1) for of in (values, np.ones_like(values)))
    means: np.ndarray = (sums / ones).ravel()
    return means


def check(what: str) -> None:
    """UserError for a share that is none."""
    _share(what)


def load(what: str, _device: str) -> KeptReward:
    """Load nothing."""
    return KeptReward(_share(what))


def _share(what: str) -> float:
    try:
        share = float(what or MAY_CHANGE)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UserError("kept takes the share of an image that may change: 0 to below 1", found=what, fix="kept:0.5")
    return share
