"""The autoregressive half of GLM-Image: a GLM-4 language model whose head writes picture codes.

Parameter names are the published ones without their leading `model.`; the numbers follow `GlmImageTextModel` of
transformers 5 (`models/glm_image`): four norms a layer, a fused gate and up projection, biases on q, k and v, and a
rotary embedding with three axes (time, row, column) on the first part of every head.

Shapes: B batch, T tokens of this call, S tokens in the cache, D width, H heads, V vision vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoregressiveConfig:
    """The sizes and token ids of a published `vision_language_encoder/config.json`. Code ids are 0 .. codes - 1."""

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
    def codes(self) -> int:
        """How many ids are picture codes: the first id that is none starts a picture."""
        return self.image_start_token_id

    @property
    def rotary_dim(self) -> int:
        """How many of a head's dimensions are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> AutoregressiveConfig:
        """Read a published config; KeyError names a missing key."""
        text = config["text_config"]
        rope = text["rope_parameters"]
        copied = (
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
        ids = ("image_start_token_id", "image_end_token_id", "image_token_id")
        return cls(
            **{key: text[key] for key in copied},
            **{key: config[key] for key in ids},
            head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            rope_theta=rope["rope_theta"],
            partial_rotary_factor=rope["partial_rotary_factor"],
            mrope_section=tuple(rope["mrope_section"]),
        )


class RmsNorm(nn.Module):
    """Root-mean-square norm: computed in float32, rounded to the input's type, then scaled (as published)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class KVCache:
    """Keys and values of a batch, allocated once. Rows may start with padding, which nothing attends to.

    `keys` and `values` are L x B x heads x capacity x head_dim; `valid` is B x capacity, False on padding;
    `length` counts the tokens written. `padded` is a Python flag so that a step never asks the device for it.
    """

    def __init__(self, keys: Tensor, values: Tensor, valid: Tensor) -> None:
        self.keys, self.values, self.valid = keys, values, valid
        self.length = 0
        self.padded = False

    @classmethod
    def allocate(
        cls, config: AutoregressiveConfig, batch: int, capacity: int, device: torch.device | str, dtype: torch.dtype
    ) -> KVCache:
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_dim)
        keys = torch.empty(shape, device=device, dtype=dtype)
        return cls(keys, torch.empty_like(keys), torch.ones(batch, capacity, device=device, dtype=torch.bool))

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append B H T D keys and values of one layer; return everything written so far. `advance` moves on."""
        end = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def mark(self, valid_BT: Tensor | None, tokens: int) -> None:
        """Note which of the next `tokens` are padding (None: none is)."""
        if valid_BT is not None:
            self.valid[:, self.length : self.length + tokens] = valid_BT
            self.padded = True

    def advance(self, tokens: int) -> None:
        self.length += tokens


def rotary_table(positions_3BT: Tensor, config: AutoregressiveConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32, B 1 T rotary_dim, for positions on three axes.

    Of the rotary_dim / 2 frequencies, the first `mrope_section[0]` turn with the time axis, the next with the row, the
    last with the column (multimodal RoPE of Qwen2-VL, arXiv 2409.12191, as GLM-Image lays it out).
    """
    size = config.rotary_dim
    exponent = torch.arange(0, size, 2, device=positions_3BT.device, dtype=torch.float32) / size
    angles_3BTF = positions_3BT[..., None].float() * config.rope_theta**-exponent
    time, row, column = (part[axis] for axis, part in enumerate(angles_3BTF.split(list(config.mrope_section), dim=-1)))
    angles_B1TF = torch.cat((time, row, column, time, row, column), dim=-1)[:, None]
    return angles_B1TF.cos(), angles_B1TF.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the first rotary_dim dimensions of B H T D: dimension i pairs with i + rotary_dim / 2."""
    cos, sin = (part.to(x.dtype) for part in table)
    turned, kept = x.split((cos.shape[-1], x.shape[-1] - cos.shape[-1]), dim=-1)
    first, second = turned.chunk(2, dim=-1)
    return torch.cat((turned * cos + torch.cat((-second, first), dim=-1) * sin, kept), dim=-1)


def attention_mask(valid_BS: Tensor, tokens: int) -> Tensor:
    """B 1 T S, True where the last `tokens` of S tokens may look: back, and never at padding.

    A padded query looks at itself: a row without any True gives NaN in some attention kernels.
    """
    length = valid_BS.shape[1]
    key = torch.arange(length, device=valid_BS.device)
    query = key[length - tokens :, None]
    return (((key <= query) & valid_BS[:, None, :]) | (key == query))[:, None]


class Attention(nn.Module):
    """Grouped-query attention over the tokens of this call and those of the cache."""

    def __init__(self, config: AutoregressiveConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.key_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        width, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, self.key_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, self.key_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, width, bias=False)

    def forward(
        self, x_BTD: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        batch, tokens, _ = x_BTD.shape

        def by_head(x: Tensor) -> Tensor:
            return x.view(batch, tokens, -1, self.head_dim).transpose(1, 2)

        query_and_key = torch.cat((by_head(self.q_proj(x_BTD)), by_head(self.k_proj(x_BTD))), dim=1)
        query, key = rotate(query_and_key, table).split((self.heads, self.key_heads), dim=1)
        value = by_head(self.v_proj(x_BTD))
        if cache is not None:
            key, value = cache.write(self.layer, key, value)
        mixed = self._attend(query, key, value, mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Query heads B H T D over key heads B H' S D; H / H' neighbouring query heads share a key head."""
        batch, _, tokens, _ = query.shape
        shared = self.heads // self.key_heads
        if tokens == 1:
            # The heads that share a key head become its queries: no copies of the cache, any kernel will do.
            grouped = query.reshape(batch, self.key_heads, shared, self.head_dim)
            mixed = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
            return mixed.reshape(batch, self.heads, 1, self.head_dim)
        if mask is None:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shared > 1)
        # Kernels that take a mask do not take groups: without the copies, attention falls back to the slow formula.
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Mlp(nn.Module):
    """SiLU-gated MLP; the first half of `gate_up_proj` is the gate."""

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Layer(nn.Module):
    """One transformer layer: a norm before and after both attention and MLP."""

    def __init__(self, config: AutoregressiveConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = Mlp(config)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RmsNorm(width, eps)
        self.post_self_attn_layernorm = RmsNorm(width, eps)
        self.post_attention_layernorm = RmsNorm(width, eps)
        self.post_mlp_layernorm = RmsNorm(width, eps)

    def forward(
        self, x_BTD: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x_BTD), table, mask, cache)
        x_BTD = x_BTD + self.post_self_attn_layernorm(attended)
        return x_BTD + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x_BTD)))


class LanguageModel(nn.Module):
    """Token ids to final hidden states."""

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, ids_BT: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        x_BTD = self.embed_tokens(ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, table, mask, cache)
        return self.norm(x_BTD)


class AutoregressiveModel(nn.Module):
    """The language model and its head over the vision vocabulary. Holds weights only; position state is the caller's.

    forward(ids_BT, positions_3BT, valid_BT, cache, keep) -> logits B K V:

    - `ids_BT`: int64, `positions_3BT`: int64 time, row and column of every token.
    - `valid_BT`: False on padding; None when no valid token comes after padding (right padding needs no mask, because
      attention looks back only). With a cache, give it for the prompt and leave it out afterwards.
    - `cache`: holds the earlier tokens and takes these; None for one pass over the whole sequence.
    - `keep`: which tokens get logits: a slice, indices K, or indices B K of each row; None for all.
    """

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.config = config
        self.language_model = LanguageModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vision_vocab_size, bias=False)

    def forward(
        self,
        ids_BT: Tensor,
        positions_3BT: Tensor,
        valid_BT: Tensor | None = None,
        cache: KVCache | None = None,
        keep: slice | Tensor | None = None,
    ) -> Tensor:
        table = rotary_table(positions_3BT, self.config)
        mask = self._mask(valid_BT, cache, ids_BT.shape[1])
        x_BTD = self.language_model(ids_BT, table, mask, cache)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        return self.lm_head(_kept(x_BTD, keep))

    @staticmethod
    def _mask(valid_BT: Tensor | None, cache: KVCache | None, tokens: int) -> Tensor | None:
        """None where plain causal attention is right."""
        if cache is None:
            return None if valid_BT is None else attention_mask(valid_BT, tokens)
        cache.mark(valid_BT, tokens)
        if not cache.padded and (cache.length == 0 or tokens == 1):
            return None
        return attention_mask(cache.valid[:, : cache.length + tokens], tokens)


def _kept(x_BTD: Tensor, keep: slice | Tensor | None) -> Tensor:
    if keep is None:
        return x_BTD
    if isinstance(keep, Tensor) and keep.ndim == 2:
        return x_BTD.gather(1, keep[..., None].expand(-1, -1, x_BTD.shape[-1]))
    return x_BTD[:, keep]
