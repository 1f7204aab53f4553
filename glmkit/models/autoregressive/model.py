"""The autoregressive half of GLM-Image: a GLM-4 language model whose head writes image codes.

Parameter names are the published ones without their leading `model.`; the numbers follow `GlmImageTextModel` of
transformers 5 (`models/glm_image`): four norms a layer, a fused gate and up projection, biases on q, k and v, and a
rotary embedding with three axes (time, row, column) on the first part of every head.

Shapes: B batch, T tokens of this call, S tokens in the cache, D width, H heads, V vision vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models.compiling import compiled
from glmkit.models.fused_linear import Fused, fuse
from glmkit.models.gradient_checkpointing import checkpointed

# On a GPU the keys of one step are cut into parts of this many slots while rows x key heads stay below the limit.
SPLIT_KV_LENGTH = 64
SPLIT_BELOW = 64


@dataclass(frozen=True)
class AutoregressiveConfig:
    """The sizes and token ids of a published `vision_language_encoder/config.json`. Prior token ids are 0 .. codebook_size - 1."""

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
        """How many ids are image codes: the first id that is none starts an image."""
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
    """Keys and values of a batch, allocated once: `kv` is L x 2 x B x heads x capacity x head_dim, keys first.

    Every row fills its own slots from 0 on, so that no row has padding in front. What stands behind a row's newest
    token is never read.
    """

    def __init__(self, kv: Tensor) -> None:
        self.kv = kv

    @classmethod
    def allocate(
        cls, config: AutoregressiveConfig, batch: int, capacity: int, device: torch.device | str, dtype: torch.dtype
    ) -> KVCache:
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, capacity, config.head_dim)
        # Zeros, since masked slots still meet a weight of 0 in the sum over values, and 0 x NaN is NaN.
        return cls(torch.zeros(shape, device=device, dtype=dtype))

    def rows(self, part: slice) -> KVCache:
        """A view of some rows of the batch."""
        return KVCache(self.kv[:, :, part])

    def layer(self, index: int, kv_length: int | None = None) -> Tensor:
        """A view of one layer's keys and values, 2 B H S d, or of their first `kv_length` slots."""
        return self.kv[index, :, :, :, :kv_length]


def rotary_cos_sin(positions_3BT: Tensor, config: AutoregressiveConfig) -> tuple[Tensor, Tensor]:
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


def rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the first rotary_dim dimensions of B H T D: dimension i pairs with i + rotary_dim / 2."""
    cos, sin = (part.to(x.dtype) for part in cos_sin)
    turned, kept = x.split((cos.shape[-1], x.shape[-1] - cos.shape[-1]), dim=-1)
    first, second = turned.chunk(2, dim=-1)
    return torch.cat((turned * cos + torch.cat((-second, first), dim=-1) * sin, kept), dim=-1)


def key_mask(input_pos_B: Tensor, kv_length: int) -> Tensor:
    """B 1 1 S, True at the slots up to each row's newest one."""
    return (torch.arange(kv_length, device=input_pos_B.device) <= input_pos_B[:, None])[:, None, None]


def attend_split_kv(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, parts: int) -> Tensor:
    """Attention of few queries B H T d over many keys B H S d, the sum over the keys cut into `parts` of equal length.

    A GPU works on all parts at once; with one row and two key heads the usual kernels would keep two of its
    processors busy (Flash-Decoding, Dao et al. 2023).
    """
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).to(value.dtype)
    weights_BHPTS = weights.unflatten(-1, (parts, -1)).transpose(2, 3)
    return (weights_BHPTS @ value.unflatten(2, (parts, -1))).sum(dim=2, dtype=torch.float32).to(value.dtype)


class Attention(nn.Module):
    """The products around grouped-query attention, which itself is `causal_attention`, or `attend_current_token` of one token."""

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
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
        self.fused: Fused | None = None

    def fuse(self) -> None:
        """Compute queries, keys and values by one product from now on; for weights that no longer change."""
        self.fused = fuse((self.q_proj, self.k_proj, self.v_proj))

    def project(self, x_BTD: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, B H T d, turned to their positions."""
        if self.fused is None:
            joint = torch.cat((self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)), dim=-1)
        else:
            joint = F.linear(x_BTD, *self.fused)
        return self.split_heads(joint, cos_sin)

    def split_heads(self, joint: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, B H T d, of what the joint projection gave."""
        by_head = joint.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        turning, value = by_head.split((self.heads + self.key_heads, self.key_heads), dim=1)
        query, key = rotate(turning, cos_sin).split((self.heads, self.key_heads), dim=1)
        return query, key, value

    def output(self, attention_output: Tensor) -> Tensor:
        """B T D from what the heads read, B H T d."""
        return self.o_proj(attention_output.transpose(1, 2).flatten(2))


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What each query, B H T d, reads of the keys and values, B H' T d, up to its own."""
    grouped = query.shape[1] > key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)


class PackedSequences:
    """Sequences of these `lengths`, one after the other in one row; none sees another."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)

    @torch.compiler.disable  # what is compiled around it then serves rows of any lengths
    def causal_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As the function of this name, from each query to the start of its own sequence."""
        # One after the other: each gets the kernel that needs no mask, and pairs of two sequences cost nothing.
        parts = zip(*(states.split(self.lengths, dim=2) for states in (query, key, value)), strict=True)
        return torch.cat([causal_attention(*part) for part in parts], dim=2)


def attend_current_token(query: Tensor, mask: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What one query a row, B H 1 d, reads of the slots of `key` and `value`, B H' S d, that `mask` lets it."""
    # The heads that share a key head become its queries: no copies of the cache.
    grouped = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
    parts = kv_splits(grouped, key)
    if parts > 1:
        attention_output = attend_split_kv(grouped, key, value, mask, parts)
    else:
        attention_output = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
    return attention_output.reshape(query.shape)


def kv_splits(query: Tensor, key: Tensor) -> int:
    """Into how many parts `attend_split_kv` cuts the keys: enough for a GPU's processors, 1 on a CPU."""
    if query.device.type != "cuda" or len(query) * query.shape[1] >= SPLIT_BELOW:
        return 1
    return key.shape[2] // SPLIT_KV_LENGTH if key.shape[2] % SPLIT_KV_LENGTH == 0 else 1


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

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RmsNorm(width, eps)
        self.post_self_attn_layernorm = RmsNorm(width, eps)
        self.post_attention_layernorm = RmsNorm(width, eps)
        self.post_mlp_layernorm = RmsNorm(width, eps)

    def forward(
        self,
        x_BTD: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        cache: Tensor | None = None,
        packed: PackedSequences | None = None,
    ) -> Tensor:
        """Every token looks back, in a packed row to the start of its own sequence; `cache` (2 B H S d) takes keys and
        values from its first slot on."""
        query, key, value = self.self_attn.project(self.input_layernorm(x_BTD), cos_sin)
        if cache is not None:
            cache[:, :, :, : x_BTD.shape[1]] = torch.stack((key, value))
        look_back = causal_attention if packed is None else packed.causal_attention
        return self.after_attention(x_BTD, look_back(query, key, value))

    def before_attention(self, x_B1D: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Queries B H 1 d of new tokens, and their keys and values, 2 B H' 1 d."""
        query, key, value = self.self_attn.project(self.input_layernorm(x_B1D), cos_sin)
        return query, torch.stack((key, value))

    def after_attention(self, x_BTD: Tensor, attention_output: Tensor) -> Tensor:
        """The layer's result from what attention gave, B H T d."""
        x_BTD = x_BTD + self.post_self_attn_layernorm(self.self_attn.output(attention_output))
        return x_BTD + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x_BTD)))


class LayerSteps(NamedTuple):
    """What a layer does with one new token; each may be compiled, attention for any number of slots."""

    before: Callable[..., tuple[Tensor, Tensor]] = Layer.before_attention
    attend: Callable[..., Tensor] = attend_current_token
    after: Callable[..., Tensor] = Layer.after_attention

    @classmethod
    def compiled(cls) -> LayerSteps:
        return cls(
            compiled(Layer.before_attention),
            compiled(attend_current_token, dynamic=True),
            compiled(Layer.after_attention),
        )


class LanguageModel(nn.Module):
    """Token ids to final hidden states."""

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = 0  # see `gradient_checkpointing.checkpointed`

    def forward(
        self,
        ids_BT: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        cache: KVCache | None = None,
        packed: PackedSequences | None = None,
    ) -> Tensor:
        x_BTD = self.embed_tokens(ids_BT)
        for index, layer in enumerate(self.layers):
            own = None if cache is None else cache.layer(index)
            x_BTD = checkpointed(layer, index, self.gradient_checkpointing, x_BTD, cos_sin, own, packed)
        return self.norm(x_BTD)


class AutoregressiveModel(nn.Module):
    """The language model and its head over the vision vocabulary. Holds weights only; position state is the caller's.

    forward(ids_BT, positions_3BT, logits_to_keep, cache, sequence_lengths) -> logits B K V, for whole sequences that may be padded on the
    right (attention looks back, so padding needs no mask):

    - `ids_BT`: int64, `positions_3BT`: int64 time, row and column of every token.
    - `logits_to_keep`: which tokens get logits: a slice, indices K, or indices B K of each row; None for all.
    - `cache`: takes the tokens in its slots 0 .. T - 1, for `decode` to go on from.
    - `sequence_lengths`: a row holds several sequences, of these lengths, one after the other; none sees another.
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
        logits_to_keep: slice | Tensor | None = None,
        cache: KVCache | None = None,
        sequence_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        cos_sin = rotary_cos_sin(positions_3BT, self.config)
        packed = None if sequence_lengths is None else PackedSequences(sequence_lengths)
        return self.lm_head(_kept(self.language_model(ids_BT, cos_sin, cache, packed), logits_to_keep))

    def decode_step(
        self,
        ids_B: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        input_pos_B: Tensor,
        cache: KVCache,
        kv_length: int,
        steps: LayerSteps | None = None,
    ) -> Tensor:
        """Logits B V after one more token a row, which is written at `input_pos_B`; nothing waits for the device.

        `cos_sin` are the cosines and sines B 1 1 rotary_dim of the tokens' positions. Only the first `kv_length` slots are
        looked at: it must be above every slot in use.
        """
        before, attend, after = steps or LayerSteps()
        mask = key_mask(input_pos_B, kv_length)
        x_B1D = self.language_model.embed_tokens(ids_B[:, None])
        for index, layer in enumerate(self.language_model.layers):
            query, new = before(layer, x_B1D, cos_sin)
            pair = cache.layer(index, kv_length)
            # Not inside a compiled function: that would copy the cache to write one slot of it.
            pair.scatter_(3, input_pos_B[:, None, None, None].expand_as(new), new)
            x_B1D = after(layer, x_B1D, attend(query, mask, *pair))
        return self.lm_head(self.language_model.norm(x_B1D))[:, 0]

    def fuse(self) -> None:
        """One product for queries, keys and values in every layer; for weights that no longer change."""
        for layer in self.language_model.layers:
            cast(Layer, layer).self_attn.fuse()


def _kept(x_BTD: Tensor, keep: slice | Tensor | None) -> Tensor:
    if keep is None:
        return x_BTD
    if isinstance(keep, Tensor) and keep.ndim == 2:
        return x_BTD.gather(1, keep[..., None].expand(-1, -1, x_BTD.shape[-1]))
    return x_BTD[:, keep]
