"""Sizes and token ids of an autoregressive model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "vision_vocab_size",
    "attention_bias",
    "pad_token_id",
    "eos_token_id",
)
IMAGE_KEYS = ("image_start_token_id", "image_end_token_id", "image_token_id")


@dataclass(frozen=True)
class AutoregressiveConfig:
    """Hold the sizes and token ids of a published `vision_language_encoder/config.json`, under its names.

    Prior tokens are the ids 0 .. codebook_size - 1.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    partial_rotary_factor: float
    mrope_section: tuple[int, int, int]
    vision_vocab_size: int
    attention_bias: bool
    pad_token_id: int
    eos_token_id: int
    image_start_token_id: int
    image_end_token_id: int
    image_token_id: int

    @property
    def codebook_size(self) -> int:
        """Return how many ids are prior tokens: the first id that is none starts an image."""
        return self.image_start_token_id

    @property
    def rotary_dim(self) -> int:
        """Return how many of a head's dimensions are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> AutoregressiveConfig:
        """Read a published config; KeyError names a missing key."""
        text = config["text_config"]
        rope = text["rope_parameters"]
        return cls(
            **{key: text[key] for key in TEXT_KEYS},
            **{key: config[key] for key in IMAGE_KEYS},
            head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            rope_theta=rope["rope_theta"],
            partial_rotary_factor=rope["partial_rotary_factor"],
            mrope_section=tuple(rope["mrope_section"]),
        )
