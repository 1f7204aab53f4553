"""What a learned scorer of `glmkit eval --scorer` gives an image: scorer:pickscore:FOLDER, scorer:hpsv2-1:FILE, ..."""

from __future__ import annotations

from glmkit.errors import UserError
from glmkit.evaluation import scorers
from glmkit.evaluation.scorers import Scorer
from glmkit.extras import require
from glmkit.training.rl.rewards import RewardSample

ABOUT = "a learned preference, scorer:NAME:WEIGHTS; each has a range of its own"
MIN_STD = 0.1


class ScorerReward:
    """Score by a learned scorer."""

    reads_text, needs_base, gates, is_slow = False, False, False, False

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.identity = scorer, str(scorer.identity)

    def score(self, sample: RewardSample) -> float | None:
        """Score as the scorer does."""
        return self.scorer.score(sample.image, sample.prompt.prompt)


def check(what: str) -> None:
    """UserError for an unknown scorer, and when its package is missing."""
    if not what:
        raise UserError("the reward scorer needs the name of one", fix="scorer:pickscore:FOLDER; glmkit list shows all")
    module, _ = scorers.find(scorers.resolve(what))
    require(module.CHECKED, "a learned scorer")


def load(what: str, device: str) -> ScorerReward:
    """Load the scorer with its weights."""
    return ScorerReward(scorers.load_scorers([scorers.resolve(what)], device)[0])
