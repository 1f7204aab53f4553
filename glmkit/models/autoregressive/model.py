"""The autoregressive model of GLM-Image: a GLM-4 language model whose head gives prior tokens.

All of its arithmetic is here, in reading order: the key-value cache, rotary positions, attention, a layer, the stack of
layers, the model. `forward` takes whole sequences (training), `prefill` prompts, `decode_step` one more token of each.
`glmkit.models.autoregressive.backends` chooses among faster ways to the numbers of `decode_step`.

Parameter names are the published ones without their leading `model.`; the numbers follow `GlmImageTextModel` of
transformers 5 (`models/glm_image`): four norms per layer, a fused gate and up projection, biases on q, k and v, and a
rotary embedding with three axes (time, row, column) on the first part of every head.

Shapes as in `glmkit.models`; here T are the tokens of this call, S those in the cache, K query heads, G key heads and
V the vision vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models.autoregressive.config import AutoregressiveConfig
from glmkit.models.fused_linear import Fused, fuse, project
from glmkit.models.gradient_checkpointing import checkpointed
from glmkit.models.quantized import unpacked_once

# On a GPU the keys of a decoding step are cut into splits of this length, while sequences x key heads are few.
KV_SPLIT_LENGTH = 64
KV_SPLIT_BELOW = 64


class KVCache:
    """Keys and values of a batch, allocated once: `kv` is L 2 B G S d, keys first; S is its capacity.

    Every sequence fills its own positions from 0 on, so that none has padding in front. What stands behind a
    sequence's current token is never read.
    """

    def __init__(self, kv: Tensor) -> None:
        self.kv = kv

    @classmethod
    def allocate(
        cls, config: AutoregressiveConfig, batch: int, capacity: int, device: torch.device | str, dtype: torch.dtype
    ) -> KVCache:
        """Make an empty cache of `capacity` tokens for each of `batch` sequences."""
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, capacity, config.head_dim)
        # Zeros, since masked positions still meet a weight of 0 in the sum over values, and 0 x NaN is NaN.
        return cls(torch.zeros(shape, device=device, dtype=dtype))

    def samples(self, chosen: slice) -> KVCache:
        """Return a view of some sequences of the batch."""
        return KVCache(self.kv[:, :, chosen])

    def copy(self, source: int, target: int, length: int) -> None:
        """Give one sequence of the batch the first `length` positions of another."""
        self.kv[:, :, target, :, :length] = self.kv[:, :, source, :, :length]

    def layer(self, index: int, kv_length: int | None = None) -> Tensor:
        """Return a view of one layer's keys and values, 2 B G S d, or of their first `kv_length` positions."""
        return self.kv[index, :, :, :, :kv_length]


class RmsNorm(nn.Module):
    """Root-mean-square norm: computed in float32, rounded to the input's type, then scaled (as published)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x, normalised along its last dimension."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


def rotary_cos_sin(positions_3BT: Tensor, config: AutoregressiveConfig) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, float32, B 1 T rotary_dim, for positions on three axes.

    The first `mrope_section[0]` of the rotary_dim / 2 frequencies turn with the time axis, the next with the row, the
    last with the column (multimodal RoPE of Qwen2-VL, arXiv 2409.12191, as GLM-Image lays it out).
    """
    size = config.rotary_dim
    exponent = torch.arange(0, size, 2, device=positions_3BT.device, dtype=torch.float32) / size
    angles_3BTF = positions_3BT[..., None].float() * config.rope_theta**-exponent
    sections = angles_3BTF.split(list(config.mrope_section), dim=-1)
    time, row, column = (section[axis] for axis, section in enumerate(sections))
    angles_B1TF = torch.cat((time, row, column, time, row, column), dim=-1)[:, None]
    return angles_B1TF.cos(), angles_B1TF.sin()


def rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the first rotary_dim dimensions of B K T d: dimension i pairs with i + rotary_dim / 2."""
    cos, sin = (values.to(x.dtype) for values in cos_sin)
    rotated, unrotated = x.split((cos.shape[-1], x.shape[-1] - cos.shape[-1]), dim=-1)
    first, second = rotated.chunk(2, dim=-1)
    return torch.cat((rotated * cos + torch.cat((-second, first), dim=-1) * sin, unrotated), dim=-1)


class CausalAttention(nn.Module):
    """The projections around grouped-query attention, which itself is `attend_causally` or `attend_to_cache`."""

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
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
        """Return queries B K T d, keys and values B G T d, turned to their positions."""
        if self.fused is None:
            qkv = torch.cat((self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)), dim=-1)
        else:
            qkv = project(x_BTD, self.fused)
        return self.split_heads(qkv, cos_sin)

    def split_heads(self, qkv: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `project` does, from the result of the fused product, B T (K + 2 G) d."""
        by_head = qkv.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        query_key, value = by_head.split((self.heads + self.key_heads, self.key_heads), dim=1)
        query, key = rotate(query_key, cos_sin).split((self.heads, self.key_heads), dim=1)
        return query, key, value

    def output(self, attention_output: Tensor) -> Tensor:
        """Project the heads' results, B K T d, to B T D."""
        return self.o_proj(attention_output.transpose(1, 2).flatten(2))


def attend_causally(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return what each query, B K T d, reads of the keys and values, B G T d, up to its own."""
    grouped = query.shape[1] > key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)


class PackedSequences:
    """Sequences of these `lengths`, packed one after the other along T; none sees another."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what is compiled around it serves packs of any lengths
    def attend_causally(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend as the function of this name, from each query back to the start of its own sequence."""
        # One after the other: each gets the kernel that needs no mask, and pairs of two sequences cost nothing.
        sequences = zip(*(states.split(self.lengths, dim=2) for states in (query, key, value)), strict=True)
        return torch.cat([attend_causally(*sequence) for sequence in sequences], dim=2)


def key_mask(input_pos_B: Tensor, kv_length: int) -> Tensor:
    """Return B 1 1 S, True at the positions up to each sequence's current one."""
    return (torch.arange(kv_length, device=input_pos_B.device) <= input_pos_B[:, None])[:, None, None]


def attend_to_cache(query: Tensor, mask: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return what one query per sequence, B K 1 d, reads of keys and values B G S d where `mask` B 1 1 S is True."""
    # The heads that share a key head become its queries: no copies of the cache.
    grouped = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
    splits = kv_splits(grouped, key)
    if splits > 1:
        attention_output = attend_split_kv(grouped, key, value, mask, splits)
    else:
        attention_output = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
    return attention_output.reshape(query.shape)


def kv_splits(query: Tensor, key: Tensor) -> int:
    """Return into how many splits `attend_split_kv` cuts the keys: enough for a GPU's processors, 1 on a CPU."""
    if query.device.type != "cuda" or len(query) * query.shape[1] >= KV_SPLIT_BELOW:
        return 1
    return key.shape[2] // KV_SPLIT_LENGTH if key.shape[2] % KV_SPLIT_LENGTH == 0 else 1


def attend_split_kv(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, splits: int) -> Tensor:
    """Attend from few queries B G T d to many keys B G S d, the sum over the keys cut into `splits` of equal length.

    A GPU works on all of them at once; with one sequence and two key heads the common kernels would keep two of its
    processors busy (Flash-Decoding, Dao et al. 2023).
    """
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).to(value.dtype)
    weights_BGPTS = weights.unflatten(-1, (splits, -1)).transpose(2, 3)
    return (weights_BGPTS @ value.unflatten(2, (splits, -1))).sum(dim=2, dtype=torch.float32).to(value.dtype)


class Mlp(nn.Module):
    """SiLU-gated MLP; the first half of `gate_up_proj` is the gate."""

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return B T D from B T D."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class CausalLayer(nn.Module):
    """One transformer layer: a norm before and after both attention and MLP."""

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.self_attn = CausalAttention(config)
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
        layer_cache: Tensor | None = None,
        packed: PackedSequences | None = None,
    ) -> Tensor:
        """Return B T D of whole sequences; `layer_cache` 2 B G S d takes their keys and values from position 0 on."""
        query, key, value = self.before_attention(x_BTD, cos_sin)
        if layer_cache is not None:
            layer_cache[:, :, :, : x_BTD.shape[1]] = torch.stack((key, value))
        attend = attend_causally if packed is None else packed.attend_causally
        return self.after_attention(x_BTD, attend(query, key, value))

    def before_attention(self, x_BTD: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries B K T d, keys and values B G T d."""
        return self.self_attn.project(self.input_layernorm(x_BTD), cos_sin)

    def after_attention(self, x_BTD: Tensor, attention_output: Tensor) -> Tensor:
        """Return the layer's result, B T D, from what attention gave, B K T d."""
        x_BTD = x_BTD + self.post_self_attn_layernorm(self.self_attn.output(attention_output))
        return x_BTD + self.post_mlp_layernorm(self.mlp(self.post_attention_layernorm(x_BTD)))


def project_new_token(layer: CausalLayer, x_B1D: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return queries B K 1 d of new tokens, and their keys and values together, 2 B G 1 d, as the cache takes them."""
    query, key, value = layer.before_attention(x_B1D, cos_sin)
    return query, torch.stack((key, value))


class LayerSteps(NamedTuple):
    """The three functions by which a layer decodes one token; a backend may compile each."""

    before: Callable[..., tuple[Tensor, Tensor]] = project_new_token
    attend: Callable[..., Tensor] = attend_to_cache
    after: Callable[..., Tensor] = CausalLayer.after_attention


EAGER = LayerSteps()


class LanguageModel(nn.Module):
    """Token ids to final hidden states."""

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(CausalLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = 0  # 0: none, N: every Nth layer; see `checkpointed`

    def forward(
        self,
        ids_BT: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        cache: KVCache | None = None,
        packed: PackedSequences | None = None,
    ) -> Tensor:
        """Return hidden states B T D of whole sequences; see `AutoregressiveModel.forward`."""
        x_BTD = self.embed_tokens(ids_BT)
        for index, layer in enumerate(self.layers):
            layer_cache = None if cache is None else cache.layer(index)
            x_BTD = checkpointed(layer, index, self.gradient_checkpointing, x_BTD, cos_sin, layer_cache, packed)
        return self.norm(x_BTD)


class AutoregressiveModel(nn.Module):
    """The language model and its head over the vision vocabulary: weights only, position state is the caller's."""

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
        """Return logits B T V of whole sequences, which may be padded on the right: attention only looks back.

        `ids_BT` and `positions_3BT` (time, row and column of every token) are int64. `logits_to_keep` says which
        tokens get logits: a slice, indices, or indices B x T of each sequence; None for all. `cache` takes the tokens
        at its positions 0 .. T - 1, for `decode_step` to go on from. With `sequence_lengths` each of the B holds
        several sequences of these lengths, one after the other; none sees another.
        """
        cos_sin = rotary_cos_sin(positions_3BT, self.config)
        packed = None if sequence_lengths is None else PackedSequences(sequence_lengths)
        hidden_BTD = self.language_model(ids_BT, cos_sin, cache, packed)
        return self.lm_head(_select(hidden_BTD, logits_to_keep))

    def prefill(
        self, prompts: Sequence[tuple[Tensor, Tensor]], cache: KVCache, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Return logits B V behind the prompts of B sequences, which fill their parts of the cache.

        `prompts` are (ids P, positions 3 P); sequence b has prompt `rows[b]`, by default its own. Each prompt goes
        through every product alone and once, so that what it gives depends on no other. One layer reads all of them
        before the next, so that packed matrices are unpacked once for a batch.
        """
        language, own = self.language_model, range(len(prompts)) if rows is None else rows
        firsts = [own.index(number) for number in range(len(prompts))]
        parts = [cache.samples(slice(index, index + 1)) for index in firsts]
        angles = [rotary_cos_sin(positions_3P[:, None], self.config) for _, positions_3P in prompts]
        hidden = [language.embed_tokens(ids_P[None]) for ids_P, _ in prompts]
        once = unpacked_once if len(prompts) > 1 else nullcontext
        for number, layer in enumerate(language.layers):
            with once():
                for index, (part, cos_sin) in enumerate(zip(parts, angles, strict=True)):
                    hidden[index] = layer(hidden[index], cos_sin, part.layer(number))
        with once():
            logits_BV = torch.cat([self.lm_head(language.norm(x_1PD)[:, -1:])[:, 0] for x_1PD in hidden])
        if len(own) == len(prompts):
            return logits_BV
        for index, number in enumerate(own):
            if index != firsts[number]:
                cache.copy(firsts[number], index, len(prompts[number][0]))
        return logits_BV[torch.tensor(own, device=logits_BV.device)]

    def decode_step(
        self,
        ids_B: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        input_pos_B: Tensor,
        cache: KVCache,
        kv_length: int,
        steps: LayerSteps = EAGER,
    ) -> Tensor:
        """Return logits B V after one more token per sequence, whose keys and values go to `input_pos_B` of the cache.

        `cos_sin` are the cosines and sines B 1 1 rotary_dim of the tokens' positions. Only the first `kv_length`
        positions of the cache are read: it must be above every one in use. Nothing waits for the device.
        """
        mask = key_mask(input_pos_B, kv_length)
        x_B1D = self.language_model.embed_tokens(ids_B[:, None])
        for index, layer in enumerate(self.language_model.layers):
            query, key_value = steps.before(layer, x_B1D, cos_sin)
            layer_cache = cache.layer(index, kv_length)
            # Not inside a compiled function: that would copy the cache to write one position of it.
            layer_cache.scatter_(3, input_pos_B[:, None, None, None].expand_as(key_value), key_value)
            x_B1D = steps.after(layer, x_B1D, steps.attend(query, mask, *layer_cache))
        return self.lm_head(self.language_model.norm(x_B1D))[:, 0]

    def fuse(self) -> None:
        """Compute queries, keys and values by one product in every layer; for weights that no longer change."""
        for layer in self.language_model.layers:
            cast(CausalLayer, layer).self_attn.fuse()


def _select(x_BTD: Tensor, kept: slice | Tensor | None) -> Tensor:
    if kept is None:
        return x_BTD
    if isinstance(kept, Tensor) and kept.ndim == 2:
        return x_BTD.gather(1, kept[..., None].expand(-1, -1, x_BTD.shape[-1]))
    return x_BTD[:, kept]
