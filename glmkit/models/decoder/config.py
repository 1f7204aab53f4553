"""Sizes of a diffusion decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from glmkit.errors import UserError


@dataclass(frozen=True)
class DecoderConfig:
    """Hold the keys of a published `transformer/config.json`."""

    patch_size: int
    in_channels: int
    out_channels: int
    num_layers: int
    attention_head_dim: int
    num_attention_heads: int
    text_embed_dim: int
    time_embed_dim: int
    condition_dim: int
    prior_vq_quantizer_codebook_size: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DecoderConfig:
        """Read a published config; keys that the model does not use (`_class_name`, ...) are passed over.

        UserError names the keys that are missing.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise UserError(
                f"the decoder's config lacks {', '.join(missing)}",
                found=f"keys {', '.join(sorted(values)) or 'none'}",
                fix="the config.json of a GlmImageTransformer2DModel",
            )
        return cls(**{name: values[name] for name in names})

    @property
    def width(self) -> int:
        """Return the width D of a token."""
        return self.num_attention_heads * self.attention_head_dim
