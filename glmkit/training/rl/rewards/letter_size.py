"""Whether letters are about as large as in the image of the base model: OCR reads huge ones best.

Nothing is said of texts that are in only one of the two images: whether they are there is for `text` to say.
"""

from __future__ import annotations

from statistics import mean

from glmkit.evaluation.ocr.text_boxes import text_heights
from glmkit.training.rl.rewards import RewardSample, refuse_argument

ABOUT = "1 for letters of half to twice the height that the base model gives them, less outside: 0 to 1"
MIN_STD = 0.05
FREE = 2.0  # how much larger or smaller letters may be


class LetterSizeReward:
    """Compare the heights of texts with those in the base image."""

    reads_text, needs_base, gates, is_slow = True, True, False, False
    identity = ""

    def score(self, sample: RewardSample) -> float | None:
        """Average over the texts that were found in both images."""
        heights = (text_heights(sample.prompt.texts, lines) for lines in (sample.lines, sample.base_lines))
        ratios = [here / before for here, before in zip(*heights, strict=True) if here and before]
        return mean(min(1.0, FREE * min(ratio, 1 / ratio)) for ratio in ratios) if ratios else None


def check(what: str) -> None:
    """UserError for anything behind the name."""
    refuse_argument("letter-size", what)


def load(_what: str, _device: str) -> LetterSizeReward:
    """Load nothing."""
    return LetterSizeReward()
