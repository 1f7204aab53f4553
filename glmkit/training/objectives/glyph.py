"""The glyph encoder's adapter: the decoder's loss, whose gradient goes through the frozen decoder into the encoder."""

from __future__ import annotations

from torch import nn

from glmkit.models.hybrid import HybridModel
from glmkit.training.objectives import StageKind
from glmkit.training.objectives.decoder import DecoderObjective, precompute


class GlyphObjective(DecoderObjective):
    """Trains the glyph encoder alone."""

    def _trained(self, hybrid: HybridModel) -> nn.Module:
        return hybrid.glyph


KIND = StageKind(GlyphObjective, precompute, encoders=("semantic_vq", "vae"), transformer="decoder")
