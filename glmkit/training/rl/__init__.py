"""Reinforcement learning: images are generated, rewarded, and learnt from.

`rewards` says what an image is worth, `rounds` which images there are and how they compare, `objective` what both
halves of the model have in common; `autoregressive` is GRPO, `decoder` DiffusionNFT, and `monitors` stop what games a
reward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glmkit.training import data

if TYPE_CHECKING:
    from glmkit.config import Recipe
    from glmkit.models.hybrid import HybridModel
    from glmkit.training.context import StageContext
    from glmkit.training.objectives import Objective, StageKind


class Positions:
    """The images of a round by their positions in it: every step learns all of them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __getitem__(self, step: int) -> list[int]:
        """Return the positions of `step`."""
        return list(range(self.count))


def load_data(recipe: Recipe) -> data.Datasets:
    """Load the images of a recipe, or the prompts that stand in their place where it learns from rewards."""
    if recipe.data.prompts is None:
        return data.load(recipe.data, recipe.largest_batch)
    from glmkit.training.rl import prompts

    return prompts.load(recipe)


def without_image_encoders(kind: StageKind) -> StageKind:
    """Return the kind of a stage on images as it is where there are none: only texts are encoded."""
    return replace(kind, encoders=tuple(one for one in kind.encoders if one == "glyph"))


def kind(context: StageContext) -> StageKind:
    """Return what a stage that learns from rewards is made of; what generates is loaded when it is used."""
    from glmkit.training.objectives import StageKind
    from glmkit.training.rl import autoregressive, decoder

    def objective(hybrid: HybridModel, features: Any, prompts: Any, stage: Any) -> Objective:
        if context.name == "decoder":
            return decoder.DecoderRewardObjective(hybrid, features, prompts, stage, context)
        return autoregressive.AutoregressiveRewardObjective(hybrid, prompts, stage, context)

    if context.name == "decoder":
        return StageKind(objective, decoder.precompute, transformer="decoder")  # type: ignore[arg-type]
    return StageKind(objective, transformer="autoregressive")
