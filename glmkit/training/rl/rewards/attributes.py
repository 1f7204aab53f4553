"""What an image has of the colours, shapes, frame and places that its prompt names, by pixels and by boxes of texts.

Only prompts whose `named` says so, and those of the poster grammar in text-render, are judged: nano's own world.
"""

from __future__ import annotations

from glmkit.errors import UserError
from glmkit.evaluation.suites.text_render import named_counts
from glmkit.training.rl.rewards import RewardSample, refuse_argument

ABOUT = "share of what the prompt names that is there, by exact checks of pixels: 0 to 1"
MIN_STD = 0.05


class AttributesReward:
    """Count the checks that an image passes."""

    reads_text, needs_base, gates, is_slow = True, False, False, True
    identity = ""

    def score(self, sample: RewardSample) -> float | None:
        """Score what the prompt names, the places of its texts included."""
        try:
            counted = named_counts(sample.prompt, sample.lines, sample.image)
        except UserError as error:  # of what this prompt names
            raise ValueError(error.what) from error
        (right, checked), (in_place, placed) = counted["attribute_accuracy"], counted["texts_in_place"]
        return (right + in_place) / (checked + placed) if checked + placed else None


def check(what: str) -> None:
    """UserError for anything behind the name."""
    refuse_argument("attributes", what)


def load(_what: str, _device: str) -> AttributesReward:
    """Load nothing."""
    return AttributesReward()
