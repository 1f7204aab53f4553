"""Whether an edit is done, by the exact checks of the suites nano-edit and everyday-edit: nano's own world.

Nothing is said of other prompts: there, `text` tells whether new texts are there and old ones gone, a judge the rest.
"""

from __future__ import annotations

from glmkit.evaluation.suites import everyday_edit, nano_edit
from glmkit.training.rl.rewards import RewardSample, refuse_argument

ABOUT = "1 for an edit that is done, by exact checks of pixels and texts, else 0; prompts of nano's suites of edits"
MIN_STD = 0.05


class EditReward:
    """Compare an image with the truth of its edit."""

    reads_text, needs_base, gates, is_slow = True, False, False, False
    identity = ""

    def score(self, sample: RewardSample) -> float | None:
        """Score an edit whose truth is known."""
        for suite in (nano_edit, everyday_edit):
            edit = suite.edit_set().get(sample.prompt.id)
            if edit is not None and edit.instruction == sample.prompt.prompt:
                return float(suite.succeeded(edit, sample.image, sample.lines))
        return None


def check(what: str) -> None:
    """UserError for anything behind the name."""
    refuse_argument("edit", what)


def load(_what: str, _device: str) -> EditReward:
    """Load nothing."""
    return EditReward()
