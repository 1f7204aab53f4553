"""The glyph encoder's adapter: the decoder's loss, whose gradient goes through the frozen decoder into the encoder."""

from __future__ import annotations

from typing import Any

from glmkit.models.glyph import GlyphEncoder
from glmkit.training.objectives.decoder import DecoderObjective


class GlyphObjective(DecoderObjective):
    def __init__(self, glyph: GlyphEncoder, **context: Any) -> None:
        adapted = [parameter for parameter in glyph.parameters() if parameter.requires_grad]
        super().__init__(glyph=glyph, **context)
        for parameter in adapted:  # the decoder's objective freezes all of the encoder
            parameter.requires_grad_(True)
        self.trained = glyph
