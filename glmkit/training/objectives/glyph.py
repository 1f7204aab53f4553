"""The glyph encoder's adapter: the decoder's loss, whose gradient goes through the frozen decoder into the encoder."""

from __future__ import annotations

from torch import nn

from glmkit.config import DecoderStage
from glmkit.models.hybrid import HybridModel
from glmkit.training.objectives.decoder import DecoderObjective
from glmkit.training.objectives.spelling import OrderHead, SignHead


class GlyphObjective(DecoderObjective):
    @staticmethod
    def _learns_glyphs(stage: DecoderStage) -> bool:
        return True

    def _parts(self, hybrid: HybridModel) -> tuple[nn.Module, SignHead | None, OrderHead | None]:
        return hybrid.glyph, None, None
