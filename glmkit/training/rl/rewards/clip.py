"""How well an image goes with its prompt by CLIP: the cosine that `glmkit eval --clip` measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glmkit.evaluation.features.extractors import slug
from glmkit.evaluation.metrics import clip as metric
from glmkit.extras import require
from glmkit.training.rl.rewards import RewardSample

if TYPE_CHECKING:
    from glmkit.evaluation.features.extractors.clip import OpenClip

ABOUT = f"cosine of image and prompt by clip:MODEL ({metric.DEFAULT}): -1 to 1, about 0.2 to 0.4"
MIN_STD = 0.005


class ClipReward:
    """Compare an image with its prompt."""

    reads_text, needs_base, gates, is_slow = False, False, False, False

    def __init__(self, clip: OpenClip) -> None:
        self.clip, self.identity = clip, slug(clip)

    def score(self, sample: RewardSample) -> float | None:
        """Score by the cosine of both features."""
        (image,) = self.clip.extract([sample.image])
        (text,) = self.clip.encode_texts([metric.text(sample.prompt.prompt)])
        return float(image @ text)


def check(_what: str) -> None:
    """UserError when the package is missing."""
    require("open_clip_torch", "CLIP")


def load(what: str, device: str) -> ClipReward:
    """Load the CLIP of that name, or the default."""
    from glmkit.evaluation.features.extractors.clip import OpenClip

    return ClipReward(OpenClip(what or metric.DEFAULT, device))
