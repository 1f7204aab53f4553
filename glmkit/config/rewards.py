"""Section `rewards`: what makes an image good, for reinforcement learning and for preference pairs."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from glmkit.config.section import Section


class RewardSettings(Section):
    """Rewards by name, and how much each counts.

    Each is normalised within the images of one prompt before they are added up: a weight of 1 is one standard deviation
    of that reward.
    """

    weights: dict[str, PositiveFloat] = Field(min_length=1)
    """Rewards, NAME or NAME:WHAT, with their weights: {text: 1, content: 0.3}."""
    ocr: str = "paddleocr"
    """The OCR engine of the rewards that read text, as `glmkit list` shows it."""
