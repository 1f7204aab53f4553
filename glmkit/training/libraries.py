"""Libraries that only some recipes need: what is missing is said before anything is loaded."""

from __future__ import annotations

from glmkit.config import Recipe
from glmkit.extras import require

OPTIMIZERS = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def check(recipe: Recipe) -> None:
    """Raise UserError when an optimizer or a tracker of a recipe is not installed."""
    if recipe.wandb is not None:
        require("wandb", f"wandb: {recipe.wandb}")
    for name, stage in recipe.stages.items():
        if stage.optimizer in OPTIMIZERS:
            require(OPTIMIZERS[stage.optimizer], f"{name}.optimizer: {stage.optimizer}")
