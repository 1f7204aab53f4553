"""The diffusion decoder: a single-stream DiT that turns noise into VAE latents, guided by prior tokens and glyphs.

The architecture is CogView4's as published in diffusers 0.42 (`GlmImageTransformer2DModel`); parameter names are the
published ones, so a state dict of either side loads in the other.

Shapes: B batch, C latent channels, H W rows and columns of latents, T glyph tokens, N image tokens (H W / patch^2),
S source tokens (all sources of one row together), D width, E width of the conditioning vector, K heads, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.models.fused_linear import Fused, fuse
from glmkit.models.gradient_checkpointing import checkpointed

NORM_EPS = 1e-5
ROPE_THETA = 10000.0
SINUSOID_PERIOD = 10000.0


@dataclass(frozen=True)
class DecoderConfig:
    """The keys of the published `transformer/config.json`."""

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
        """Reads a published config; keys that the model does not use (`_class_name`, ...) are passed over."""
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
        return self.num_attention_heads * self.attention_head_dim


class KeyValue(NamedTuple):
    """Keys and values of one layer, both B K tokens d, after normalisation and rotation."""

    key: Tensor
    value: Tensor

    @classmethod
    def join(cls, parts: Sequence[KeyValue], dim: int) -> KeyValue:
        return cls(torch.cat([part.key for part in parts], dim), torch.cat([part.value for part in parts], dim))

    def padded(self, length: int) -> KeyValue:
        """With zeros behind the tokens, `length` tokens in all."""
        missing = (0, 0, 0, length - self.key.shape[2])
        return KeyValue(F.pad(self.key, missing), F.pad(self.value, missing))


@dataclass(frozen=True)
class ConditionCache:
    """What the target may read of its source images: every layer's keys and values, and which of them exist.

    `layers` has L entries of B K S d. `mask` is B S, False where a row has fewer source tokens than the longest;
    None when every entry is real.
    """

    layers: tuple[KeyValue, ...]
    mask: Tensor | None = None

    @classmethod
    def join(cls, written: Sequence[Sequence[KeyValue]]) -> ConditionCache:
        """What several sources of the same rows wrote, each one entry a layer."""
        return cls(tuple(KeyValue.join(layer, dim=2) for layer in zip(*written, strict=True)))

    @classmethod
    def batch(cls, rows: Sequence[ConditionCache | None]) -> ConditionCache | None:
        """Joins caches of one row each; None stands for a row without sources. All None gives None."""
        real = [row for row in rows if row is not None]
        if not real:
            return None
        lengths = [0 if row is None else row.layers[0].key.shape[2] for row in rows]
        longest = max(lengths)
        layers = []
        for index, layer in enumerate(real[0].layers):
            empty = KeyValue(layer.key[:, :, :0], layer.value[:, :, :0])
            parts = [empty if row is None else row.layers[index] for row in rows]
            layers.append(KeyValue.join([part.padded(longest) for part in parts], dim=0))
        if min(lengths) == longest:
            return cls(tuple(layers))
        device = layers[0].key.device
        mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        return cls(tuple(layers), mask)

    def visible_where(self, conditional_B: Tensor) -> ConditionCache:
        """The same cache for the samples where `conditional_B` is True; the others read no sources, as without a cache."""
        tokens = self.layers[0].key.shape[2]
        mask = conditional_B[:, None].expand(-1, tokens)
        return ConditionCache(self.layers, mask if self.mask is None else mask & self.mask)


class DiffusionDecoder(nn.Module):
    """Predicts the velocity `noise - clean` of normalised VAE latents."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.image_projector = PatchProjector(config)
        self.glyph_projector = FeedForward(config.text_embed_dim, width, width, nn.GELU())
        self.prior_token_embedding = nn.Embedding(config.prior_vq_quantizer_codebook_size, width)
        self.prior_projector = FeedForward(width, width, width, nn.SiLU())
        self.time_condition_embed = TimeAndSize(config)
        self.transformer_blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.norm_out = FinalNorm(width, config.time_embed_dim)
        self.proj_out = nn.Linear(width, config.out_channels * config.patch_size**2)
        self.gradient_checkpointing = 0  # see `gradient_checkpointing.checkpointed`

    def forward(
        self,
        latents: Tensor,
        glyph_embeds: Tensor,
        glyph_mask: Tensor | None,
        prior_token_ids: Tensor,
        prior_token_drop: Tensor,
        timestep: Tensor,
        target_size: Tensor,
        crop_coords: Tensor,
        condition_cache: ConditionCache | None = None,
    ) -> Tensor:
        """One denoising step's velocity, B C H W.

        `latents` B C H W noisy; `glyph_embeds` B T text_embed_dim; `glyph_mask` B T, False on padding, or None when nothing
        is padded (faster); `prior_token_ids` B N, one for every image token, row by row; `prior_token_drop` B, True where the
        prior is dropped for guidance; `timestep` B in [0, 1000): the UNSHIFTED time minus 1 (see `generation.flow`);
        `target_size` B 2 (height, width in pixels); `crop_coords` B 2 (top, left). With `condition_cache` the image and the glyphs
        also attend to the source images (stock's cache mode "read"); without, they do not ("skip").
        """
        rows, columns = (side // self.config.patch_size for side in latents.shape[-2:])
        image = self.image_projector(latents) + self.prior_embedding(prior_token_ids, prior_token_drop)
        text = self.glyph_projector(glyph_embeds)
        condition = self.time_condition_embed(timestep, target_size, crop_coords).to(image.dtype)
        rope = rotary_cos_sin(text.shape[1], rows, columns, self.config.attention_head_dim, image.device)
        mask = _key_mask(text, image, glyph_mask, condition_cache)
        for index, block in enumerate(self.transformer_blocks):
            source = None if condition_cache is None else condition_cache.layers[index]
            given = (text, image, condition, rope, mask, source)
            text, image = checkpointed(block, index, self.gradient_checkpointing, *given)
        patches = self.proj_out(self.norm_out(image, condition))
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (rows, columns)), self.config.patch_size)

    def cache_condition_images(self, sources: Sequence[tuple[Tensor, Tensor, tuple[int, int]]]) -> ConditionCache:
        """Keys and values of source images (stock's cache mode "write"), with gradients where those are enabled.

        A source is `(latents B C H W clean, prior B N, (height, width) in pixels)`: one image for each row, all of
        one size; the rows have the same number of sources (see `ConditionCache.batch` for other batches). Each image
        goes through the decoder on its own at timestep 0, without glyphs: sources see neither each other nor the
        target (block-causal).
        """
        return ConditionCache.join([self._cache_condition_image(*source) for source in sources])

    def _cache_condition_image(self, latents: Tensor, prior_token_ids: Tensor, size: tuple[int, int]) -> list[KeyValue]:
        image, condition, rope = self.condition_image_inputs(latents, prior_token_ids, size)
        text = image[:, :0]
        layers = []
        for index, block in enumerate(self.transformer_blocks):
            given = (text, image, condition, rope)
            text, image, own = checkpointed(
                cast(Block, block).forward_with_key_value, index, self.gradient_checkpointing, *given
            )
            layers.append(own)
        return layers

    def condition_image_inputs(
        self, latents: Tensor, prior_token_ids: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """What the blocks take of one source (see `cache_condition_images`): image tokens B N D, condition 1 E, rotary table."""
        rows, columns = (side // self.config.patch_size for side in latents.shape[-2:])
        prior_token_drop = torch.zeros_like(prior_token_ids[:, 0], dtype=torch.bool)
        image = self.image_projector(latents) + self.prior_embedding(prior_token_ids, prior_token_drop)
        zeros = image.new_zeros(1, 2, dtype=torch.float32)
        pixels = torch.tensor([size], dtype=torch.float32, device=image.device)
        condition = self.time_condition_embed(zeros[:, 0], pixels, zeros).to(image.dtype)
        return image, condition, rotary_cos_sin(0, rows, columns, self.config.attention_head_dim, image.device)

    def fuse(self) -> None:
        """Fewer and larger products in every block; for weights that no longer change."""
        for block in self.transformer_blocks:
            cast(Block, block).attn1.fuse()
            cast(ActivatedLinear, cast(Block, block).ff.net[0]).fuse()

    def prior_embedding(self, prior_token_ids: Tensor, prior_token_drop: Tensor) -> Tensor:
        """What is added to the patches: B N D from ids B N; `prior_token_drop` B, True where the prior is dropped."""
        # Dropped tokens are zeroed BEFORE the projector, whose biases then make a learned "no prior" vector.
        return self.prior_projector(self.prior_token_embedding(prior_token_ids) * ~prior_token_drop[:, None, None])


class Block(nn.Module):
    """Attention and feed-forward over glyph and image tokens together, each stream with its own modulation."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = Modulation(config.time_embed_dim, width)
        self.attn1 = Attention(width, config.num_attention_heads)
        self.ff = FeedForward(width, 4 * width, width, nn.GELU(approximate="tanh"))

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        condition: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
        source: KeyValue | None,
    ) -> tuple[Tensor, Tensor]:
        """`text` B T D and `image` B N D after the block."""
        # Only these two leave: another output would get a gradient of zeros in a compiled backward pass.
        text, image, _ = self.forward_with_key_value(text, image, condition, rope, mask, source)
        return text, image

    def forward_with_key_value(
        self,
        text: Tensor,
        image: Tensor,
        condition: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        source: KeyValue | None = None,
    ) -> tuple[Tensor, Tensor, KeyValue]:
        """Both streams after the block, and the keys and values that it computed for them."""
        modulation = self.norm1(condition)
        query, own = self.before_attention(text, image, modulation, rope)
        key, value = own if source is None else KeyValue.join([source, own], dim=2)
        attention_output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return *self.after_attention(text, image, attention_output, modulation), own

    def before_attention(
        self, text: Tensor, image: Tensor, modulation: Tensor, rope: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, KeyValue]:
        """Queries B K T+N d, and keys and values; `modulation` B 12 D (or 1 12 D) are those of `norm1`."""
        of_image, of_text = split_modulation(modulation)
        joint = torch.cat([of_text.attention.apply(text), of_image.attention.apply(image)], dim=1)
        return self.attn1.project(joint, rope)

    def after_attention(
        self, text: Tensor, image: Tensor, attention_output: Tensor, modulation: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both streams after the block, from what attention gave, B K T+N d."""
        lengths = [text.shape[1], image.shape[1]]
        of_image, of_text = split_modulation(modulation)
        text_update, image_update = self.attn1.output(attention_output).split(lengths, dim=1)
        text = torch.addcmul(text, of_text.attention.gate, text_update)
        image = torch.addcmul(image, of_image.attention.gate, image_update)

        joint = self.ff(torch.cat([of_text.feed_forward.apply(text), of_image.feed_forward.apply(image)], dim=1))
        text_update, image_update = joint.split(lengths, dim=1)
        text = torch.addcmul(text, of_text.feed_forward.gate, text_update)
        image = torch.addcmul(image, of_image.feed_forward.gate, image_update)
        return text, image


class Affine(NamedTuple):
    """How a condition modulates one half of a block, each B 1 D."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, _layer_norm(x), 1 + self.scale)


class StreamModulation(NamedTuple):
    attention: Affine
    feed_forward: Affine


class Modulation(nn.Module):
    """adaLN-Zero: one linear gives 6 modulation for the image tokens and 6 for the glyph tokens, interleaved."""

    def __init__(self, condition: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, 12 * width)

    def forward(self, condition: Tensor) -> Tensor:
        """B 12 D from B E."""
        return self.linear(condition)


def split_modulation(modulation: Tensor) -> tuple[StreamModulation, StreamModulation]:
    """The modulation of the image and of the text, from B 12 D."""
    parts = modulation[:, None].chunk(12, dim=-1)
    image, text = parts[0::2], parts[1::2]
    return (
        StreamModulation(Affine(*image[:3]), Affine(*image[3:])),
        StreamModulation(Affine(*text[:3]), Affine(*text[3:])),
    )


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys (LayerNorm without weights)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])  # a list for the published name, to_out.0
        self.fused: Fused | None = None

    def fuse(self) -> None:
        """Compute queries, keys and values by one product from now on; for weights that no longer change."""
        self.fused = fuse((self.to_q, self.to_k, self.to_v))

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, KeyValue]:
        """Queries, and keys and values, of `x` B L D; each B K L d."""
        if self.fused is None:
            parts = [linear(x) for linear in (self.to_q, self.to_k, self.to_v)]
        else:
            parts = list(F.linear(x, *self.fused).chunk(3, dim=-1))
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        query, key = (rotate(_layer_norm(heads), *rope).to(value.dtype) for heads in (query, key))
        return query.transpose(1, 2), KeyValue(key.transpose(1, 2), value.transpose(1, 2))

    def output(self, attention_output: Tensor) -> Tensor:
        """B L D from what the heads read, B K L d."""
        return self.to_out[0](attention_output.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, activation, linear, under the published names `net.0.proj` and `net.2`."""

    def __init__(self, width_in: int, hidden: int, width_out: int, activation: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(
            ActivatedLinear(width_in, hidden, activation),
            nn.Identity(),  # a dropout of 0 in the published module, here to keep the numbering
            nn.Linear(hidden, width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ActivatedLinear(nn.Module):
    def __init__(self, width_in: int, width_out: int, activation: nn.Module) -> None:
        super().__init__()
        self.proj = nn.Linear(width_in, width_out)
        self.activation = activation
        self.fused = False

    def fuse(self) -> None:
        """Let a GPU's product apply GELU to its sums before it rounds and writes them; for drawing only."""
        gelu = isinstance(self.activation, nn.GELU) and self.activation.approximate == "tanh"
        self.fused = gelu and type(self.proj) is nn.Linear and self.proj.weight.is_cuda

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            rows = torch._addmm_activation(self.proj.bias, x.flatten(0, -2), self.proj.weight.t(), use_gelu=True)
            return rows.unflatten(0, x.shape[:-1])
        return self.activation(self.proj(x))


class PatchProjector(nn.Module):
    """Latents B C H W to patch embeddings B N D."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Linear(config.in_channels * config.patch_size**2, config.width)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(F.pixel_unshuffle(latents, self.patch_size).flatten(2).transpose(1, 2))


class TimeAndSize(nn.Module):
    """The conditioning vector B E of a time, an image size and a crop corner (size conditions after SDXL)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.time_dim, self.size_dim = config.time_embed_dim, config.condition_dim
        self.timestep_embedder = TwoLinears(config.time_embed_dim, config.time_embed_dim)
        self.condition_embedder = TwoLinears(4 * config.condition_dim, config.time_embed_dim)

    def forward(self, timestep: Tensor, target_size: Tensor, crop: Tensor) -> Tensor:
        numbers = torch.cat([crop, target_size], dim=1)
        dtype = self.timestep_embedder.linear_1.weight.dtype
        time = self.timestep_embedder(sinusoid(timestep, self.time_dim).to(dtype))
        size = self.condition_embedder(sinusoid(numbers, self.size_dim).flatten(1).to(dtype))
        return F.silu(time + size)


class TwoLinears(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width_out)
        self.linear_2 = nn.Linear(width_out, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class FinalNorm(nn.Module):
    """The last adaptive norm; unlike usual adaLN there is no activation before its linear, and scale comes first."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.linear(condition)[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, _layer_norm(x), 1 + scale)


def sinusoid(numbers: Tensor, dim: int) -> Tensor:
    """Sinusoidal features of any numbers, (...) to (... dim) float32: cosines first, periods 2 pi to 2 pi 10^4."""
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=numbers.device) / (dim // 2)
    angles = numbers[..., None].float() * torch.exp(-math.log(SINUSOID_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_cos_sin(text: int, rows: int, columns: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, both (text + rows * columns) x 1 x head_dim / 2, float32: row angles, then column angles.

    Glyph tokens have no position: their angle is 0, which leaves them as they are.
    """
    exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device) / (head_dim // 2)
    frequencies = 1.0 / ROPE_THETA**exponents
    of_rows = torch.arange(rows, device=device)[:, None] * frequencies
    of_columns = torch.arange(columns, device=device)[:, None] * frequencies
    image = torch.cat(
        [of_rows[:, None].expand(-1, columns, -1), of_columns[None].expand(rows, -1, -1)], dim=-1
    ).flatten(0, 1)
    angles = F.pad(image, (0, 0, text, 0))[:, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (i, i + d/2) of x (B T K d) by the table's angles; the result is float32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat(
        [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)], dim=-1
    )


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def _key_mask(text: Tensor, image: Tensor, glyph_mask: Tensor | None, sources: ConditionCache | None) -> Tensor | None:
    """B 1 1 S+T+N for keys ordered [sources | glyphs | image], or None when every key may be read."""
    source_mask = None if sources is None else sources.mask
    if glyph_mask is None and source_mask is None:
        return None

    def readable(tokens: int) -> Tensor:
        return torch.ones(len(image), tokens, dtype=torch.bool, device=image.device)

    parts = [
        readable(sources.layers[0].key.shape[2] if sources else 0) if source_mask is None else source_mask,
        readable(text.shape[1]) if glyph_mask is None else glyph_mask,
        readable(image.shape[1]),
    ]
    return torch.cat(parts, dim=1)[:, None, None]
