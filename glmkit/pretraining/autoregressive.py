"""What pretraining adds to the autoregressive objective: sequences without a preview, and fresh weights."""

from __future__ import annotations

from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import PretrainAutoregressiveStage
from glmkit.pretraining.initialise import fresh_or_loaded
from glmkit.training.data import Datasets
from glmkit.training.features import FeatureCache
from glmkit.training.objectives import StageKind
from glmkit.training.objectives.autoregressive import AutoregressiveObjective
from glmkit.training.objectives.token_batches import TokenSequences


def precompute(
    hybrid: HybridModel, datasets: Datasets, stage: PretrainAutoregressiveStage, cache: FeatureCache
) -> tuple[TokenSequences, TokenSequences]:
    """Tokenize both data sets, with or without preview tokens."""
    images, validation = datasets
    train = TokenSequences(images, hybrid, cache, with_preview=stage.preview)
    return train, TokenSequences(validation, hybrid, cache, with_preview=stage.preview)


KIND = StageKind(
    AutoregressiveObjective,
    precompute,
    encoders=("semantic_vq",),
    transformer="autoregressive",
    load=fresh_or_loaded,
)
