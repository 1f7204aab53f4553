"""The glyph encoder's adapter: the decoder's loss, whose gradient goes through the frozen decoder into the encoder."""

from __future__ import annotations

from torch import nn

from glmkit.models.hybrid import HybridModel
from glmkit.training.objectives import StageKind
from glmkit.training.objectives.decoder import DecoderObjective, precompute
from glmkit.training.objectives.spelling import OrderHead, SignHead


class GlyphObjective(DecoderObjective):
    """Trains the glyph encoder alone."""

    def _parts(self, hybrid: HybridModel) -> tuple[nn.Module, SignHead | None, OrderHead | None]:
        return hybrid.glyph, None, None


KIND = StageKind(GlyphObjective, precompute, encoders=("semantic_vq", "vae"), transformer="decoder")
