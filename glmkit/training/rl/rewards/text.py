"""How much of the expected texts OCR reads, and how little else: half word accuracy, half 1 - CER.

Word accuracy counts whole words of all texts; CER (`evaluation.metrics.text`) also charges letters that were not asked
for, such as a text that stands there twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from glmkit.evaluation.metrics.text import counts
from glmkit.evaluation.ocr.lines import texts_of
from glmkit.training.rl.rewards import RewardSample, refuse_argument

ABOUT = "half word accuracy, half 1 - CER (at most 1): 0 to 1"
MIN_STD = 0.05


class TextReward:
    """Score the texts of a prompt that names some."""

    reads_text, needs_base, gates, is_slow = True, False, False, False
    identity = ""

    def score(self, sample: RewardSample) -> float | None:
        """Score by the lines that were read."""
        prompt = sample.prompt
        if not prompt.texts:
            return None
        return of_counts(counts(prompt.texts, texts_of(sample.lines), prompt.language))


def of_counts(counted: Mapping[str, tuple[float, float]]) -> float:
    """Score an image with texts by its counts, as an evaluation keeps them."""
    (hits, words), (edits, characters) = counted["word_accuracy"], counted["cer"]
    return (hits / words + 1 - min(1.0, edits / characters)) / 2


def check(what: str) -> None:
    """UserError for anything behind the name."""
    refuse_argument("text", what)


def load(_what: str, _device: str) -> TextReward:
    """Load nothing."""
    return TextReward()
