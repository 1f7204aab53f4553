"""Recipes for people who fine-tune, as typed sections; what only pretraining reads is in `glmkit.pretraining.config`.

Nothing here imports torch.
"""

from __future__ import annotations

from glmkit.config.data import Columns, Data, DataSource, ImageSettings
from glmkit.config.recipe import STAGES, Eval, Recipe, Samples, from_dict, load, to_yaml
from glmkit.config.rewards import RewardSettings
from glmkit.config.section import Section
from glmkit.config.stages import AutoregressiveStage, BlockStage, DecoderStage, GlyphStage, Lora, Stage

__all__ = [
    "STAGES",
    "AutoregressiveStage",
    "BlockStage",
    "Columns",
    "Data",
    "DataSource",
    "DecoderStage",
    "Eval",
    "GlyphStage",
    "ImageSettings",
    "Lora",
    "Recipe",
    "RewardSettings",
    "Samples",
    "Section",
    "Stage",
    "from_dict",
    "load",
    "to_yaml",
]
