"""Libraries that only some recipes need: what is missing is said before anything is loaded."""

from __future__ import annotations

import importlib.util

from glmkit.config import Recipe
from glmkit.errors import UserError

OPTIMIZERS = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def check(recipe: Recipe) -> None:
    """UserError when an optimizer or a tracker of a recipe is not installed."""
    if recipe.wandb is not None:
        require("wandb", f"wandb: {recipe.wandb}")
    for name, stage in recipe.stages.items():
        if stage.optimizer in OPTIMIZERS:
            require(OPTIMIZERS[stage.optimizer], f"{name}.optimizer: {stage.optimizer}")


def require(library: str, what: str) -> None:
    """UserError that says how to install a library that `what` in a recipe needs, when it is not there."""
    if importlib.util.find_spec(library) is None:
        raise UserError(f"{what} needs {library}, which is not installed", fix=f"pip install {library}")
