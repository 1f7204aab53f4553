"""The diffusion decoder: a single-stream DiT that turns noise into VAE latents, guided by prior tokens and glyphs.

All of its arithmetic is here and in `layers`, in reading order: the model, a block, its modulation, its attention,
rotary positions, the mask. `glmkit.models.decoder.denoiser` runs the same blocks for many steps of the same samples.

The architecture is CogView4's as published in diffusers 0.42 (`GlmImageTransformer2DModel`); parameter names are the
published ones, so a state dict of either side loads in the other.

Shapes as in `glmkit.models`; here T are glyph tokens, N image tokens (H W / patch^2), S the tokens of all condition
images of one sample together, E the width of the conditioning vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models.decoder.condition_cache import ConditionCache, KeyValue
from glmkit.models.decoder.config import DecoderConfig
from glmkit.models.decoder.layers import (
    ActivatedLinear,
    FeedForward,
    FinalNorm,
    PatchProjector,
    TimeAndSize,
    layer_norm,
)
from glmkit.models.fused_linear import Fused, fuse, project
from glmkit.models.gradient_checkpointing import checkpointed

ROPE_THETA = 10000.0


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
        self.transformer_blocks = nn.ModuleList([DecoderBlock(config) for _ in range(config.num_layers)])
        self.norm_out = FinalNorm(width, config.time_embed_dim)
        self.proj_out = nn.Linear(width, config.out_channels * config.patch_size**2)
        self.gradient_checkpointing = 0  # 0: none, N: every Nth block; see `checkpointed`

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
        """Return the velocity of one denoising step, B C H W.

        - `latents` B C H W, noisy.
        - `glyph_embeds` B T text_embed_dim; `glyph_mask` B T, False on padding, or None without padding (faster).
        - `prior_token_ids` B N, one for every image token, row by row; `prior_token_drop` B, True where the prior is
          dropped for guidance.
        - `timestep` B in [0, 1000): the UNSHIFTED time minus 1 (see `glmkit.generation.flow_matching`).
        - `target_size` B 2, height and width in pixels; `crop_coords` B 2, top and left.
        - `condition_cache`: what image and glyphs may read of condition images (the mode "read" of diffusers); None:
          nothing (its "skip").
        """
        rows, columns = (side // self.config.patch_size for side in latents.shape[-2:])
        image = self.image_projector(latents) + self.prior_embedding(prior_token_ids, prior_token_drop)
        text = self.glyph_projector(glyph_embeds)
        condition = self.time_condition_embed(timestep, target_size, crop_coords).to(image.dtype)
        rope = rotary_cos_sin(text.shape[1], rows, columns, self.config.attention_head_dim, image.device)
        mask = _key_mask(text, image, glyph_mask, condition_cache)
        for index, block in enumerate(self.transformer_blocks):
            cached = None if condition_cache is None else condition_cache.layers[index]
            inputs = (text, image, condition, rope, mask, cached)
            text, image = checkpointed(block, index, self.gradient_checkpointing, *inputs)
        return self.unpatchify(self.proj_out(self.norm_out(image, condition)), (rows, columns))

    def prior_embedding(self, prior_token_ids: Tensor, prior_token_drop: Tensor) -> Tensor:
        """Return what is added to the patches, B N D, from ids B N; `prior_token_drop` B, True where dropped."""
        # Dropped tokens are zeroed BEFORE the projector, whose biases then make a learned "no prior" vector.
        return self.prior_projector(self.prior_token_embedding(prior_token_ids) * ~prior_token_drop[:, None, None])

    def unpatchify(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return latents B C H W from patches B N (C patch^2) of so many rows and columns of image tokens."""
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, grid), self.config.patch_size)

    def cache_condition_images(self, images: Sequence[tuple[Tensor, Tensor, tuple[int, int]]]) -> ConditionCache:
        """Return keys and values of condition images (the mode "write" of diffusers), with gradients where enabled.

        An image is `(latents B C H W clean, prior_token_ids B N, (height, width) in pixels)`: one for each sample, all
        of one size; the samples have the same number of images (see `ConditionCache.batch` for other batches). Each
        goes through the decoder on its own at timestep 0, without glyphs: condition images see neither each other nor
        the target (block-causal).
        """
        return ConditionCache.join([self._cache_condition_image(*image) for image in images])

    def _cache_condition_image(self, latents: Tensor, prior_token_ids: Tensor, size: tuple[int, int]) -> list[KeyValue]:
        image, condition, rope = self.condition_image_inputs(latents, prior_token_ids, size)
        text = image[:, :0]
        layers = []
        for index, block in enumerate(self.transformer_blocks):
            run = cast(DecoderBlock, block).forward_with_key_value
            inputs = (text, image, condition, rope)
            text, image, key_value = checkpointed(run, index, self.gradient_checkpointing, *inputs)
            layers.append(key_value.owned())
        return layers

    def condition_image_inputs(
        self, latents: Tensor, prior_token_ids: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return what the blocks take of one condition image: image tokens B N D, condition 1 E, rotary cos and sin."""
        rows, columns = (side // self.config.patch_size for side in latents.shape[-2:])
        prior_token_drop = torch.zeros_like(prior_token_ids[:, 0], dtype=torch.bool)
        image = self.image_projector(latents) + self.prior_embedding(prior_token_ids, prior_token_drop)
        zeros = image.new_zeros(1, 2, dtype=torch.float32)
        pixels = torch.tensor([size], dtype=torch.float32, device=image.device)
        condition = self.time_condition_embed(zeros[:, 0], pixels, zeros).to(image.dtype)
        return image, condition, rotary_cos_sin(0, rows, columns, self.config.attention_head_dim, image.device)

    def fuse(self) -> None:
        """Use fewer and larger products in every block; for weights that no longer change."""
        for block in self.transformer_blocks:
            cast(DecoderBlock, block).attn1.fuse()
            cast(ActivatedLinear, cast(DecoderBlock, block).ff.net[0]).fuse()


class DecoderBlock(nn.Module):
    """Attention and feed-forward over glyph and image tokens together, each stream with its own modulation."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = Modulation(config.time_embed_dim, width)
        self.attn1 = JointAttention(width, config.num_attention_heads)
        self.ff = FeedForward(width, 4 * width, width, nn.GELU(approximate="tanh"))

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        condition: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cached: KeyValue | None,
    ) -> tuple[Tensor, Tensor]:
        """Return `text` B T D and `image` B N D after the block."""
        # Only these two leave: another output would get a gradient of zeros in a compiled backward pass.
        text, image, _ = self.forward_with_key_value(text, image, condition, rope, mask, cached)
        return text, image

    def forward_with_key_value(
        self,
        text: Tensor,
        image: Tensor,
        condition: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cached: KeyValue | None = None,
    ) -> tuple[Tensor, Tensor, KeyValue]:
        """Return both streams after the block, and the keys and values that it computed for them.

        `cached` are keys and values of condition images, read before those; `mask` B 1 1 S+T+N says which keys exist.
        """
        modulation = self.norm1(condition)
        query, key_value = self.before_attention(text, image, modulation, rope)
        key, value = key_value if cached is None else KeyValue.join([cached, key_value], dim=2)
        attention_output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return *self.after_attention(text, image, attention_output, modulation), key_value

    def before_attention(
        self, text: Tensor, image: Tensor, modulation: Tensor, rope: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, KeyValue]:
        """Return queries B K T+N d, and keys and values; `modulation` B 12 D (or 1 12 D) is that of `norm1`."""
        image_modulation, text_modulation = split_modulation(modulation)
        tokens = torch.cat([text_modulation.attention.apply(text), image_modulation.attention.apply(image)], dim=1)
        return self.attn1.project(tokens, rope)

    def after_attention(
        self, text: Tensor, image: Tensor, attention_output: Tensor, modulation: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return both streams after the block, from what attention gave, B K T+N d."""
        lengths = [text.shape[1], image.shape[1]]
        image_modulation, text_modulation = split_modulation(modulation)
        text_update, image_update = self.attn1.output(attention_output).split(lengths, dim=1)
        text = torch.addcmul(text, text_modulation.attention.gate, text_update)
        image = torch.addcmul(image, image_modulation.attention.gate, image_update)

        update = self.ff(
            torch.cat([text_modulation.feed_forward.apply(text), image_modulation.feed_forward.apply(image)], dim=1)
        )
        text_update, image_update = update.split(lengths, dim=1)
        text = torch.addcmul(text, text_modulation.feed_forward.gate, text_update)
        image = torch.addcmul(image, image_modulation.feed_forward.gate, image_update)
        return text, image


class BlockSteps(NamedTuple):
    """The two functions around a block's attention; a backend may compile each."""

    before: Callable[..., tuple[Tensor, KeyValue]] = DecoderBlock.before_attention
    after: Callable[..., tuple[Tensor, Tensor]] = DecoderBlock.after_attention


EAGER = BlockSteps()
# The attention output B K T+N d of block `index`, from its queries B K T+N d and the tokens' own keys and values.
Attend = Callable[[int, Tensor, KeyValue], Tensor]


def run_blocks(
    blocks: Sequence[DecoderBlock],
    modulation: Sequence[Tensor],
    text: Tensor,
    image: Tensor,
    rope: tuple[Tensor, Tensor],
    attend: Attend,
    steps: BlockSteps = EAGER,
) -> Tensor:
    """Return image tokens B N D behind all blocks, with `modulation` 12 D per block and attention by `attend`."""
    for index, (block, modulation_12D) in enumerate(zip(blocks, modulation, strict=True)):
        query, key_value = steps.before(block, text, image, modulation_12D[None], rope)
        attention_output = attend(index, query, key_value)
        text, image = steps.after(block, text, image, attention_output, modulation_12D[None])
    return image


class Affine(NamedTuple):
    """How a condition modulates one half of a block, each B 1 D."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return the modulated norm of x B L D."""
        return torch.addcmul(self.shift, layer_norm(x), 1 + self.scale)


class StreamModulation(NamedTuple):
    """How a condition modulates one stream in a block."""

    attention: Affine
    feed_forward: Affine


class Modulation(nn.Module):
    """adaLN-Zero: one linear gives 6 vectors for the image tokens and 6 for the glyph tokens, interleaved."""

    def __init__(self, condition: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, 12 * width)

    def forward(self, condition: Tensor) -> Tensor:
        """Return B 12 D from B E."""
        return self.linear(condition)


def split_modulation(modulation: Tensor) -> tuple[StreamModulation, StreamModulation]:
    """Return the modulation of the image and that of the text, from B 12 D."""
    vectors = modulation[:, None].chunk(12, dim=-1)
    image, text = vectors[0::2], vectors[1::2]
    return (
        StreamModulation(Affine(*image[:3]), Affine(*image[3:])),
        StreamModulation(Affine(*text[:3]), Affine(*text[3:])),
    )


class JointAttention(nn.Module):
    """The projections around attention with normalised queries and keys (LayerNorm without weights)."""

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
        """Return queries, and keys and values, of tokens B L D; each B K L d."""
        if self.fused is None:
            qkv = [linear(x) for linear in (self.to_q, self.to_k, self.to_v)]
        else:
            qkv = list(project(x, self.fused).chunk(3, dim=-1))
        query, key, value = (states.unflatten(-1, (self.heads, -1)) for states in qkv)
        query, key = (rotate(layer_norm(states), *rope).to(value.dtype) for states in (query, key))
        return query.transpose(1, 2), KeyValue(key.transpose(1, 2), value.transpose(1, 2))

    def output(self, attention_output: Tensor) -> Tensor:
        """Project the heads' results, B K L d, to B L D."""
        return self.to_out[0](attention_output.transpose(1, 2).flatten(2))


def rotary_cos_sin(text: int, rows: int, columns: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, both (text + rows * columns) x 1 x head_dim / 2, float32.

    The first half are of the angles of rows, the second of those of columns.
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
    """Rotate the pairs (i, i + d/2) of x B L K d by the angles of every token; the result is float32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat(
        [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)], dim=-1
    )


def _key_mask(
    text: Tensor, image: Tensor, glyph_mask: Tensor | None, condition_cache: ConditionCache | None
) -> Tensor | None:
    """Return B 1 1 S+T+N for keys ordered [condition images | glyphs | image], or None when every key may be read."""
    condition_mask = None if condition_cache is None else condition_cache.mask
    if glyph_mask is None and condition_mask is None:
        return None

    def all_of(tokens: int) -> Tensor:
        return torch.ones(len(image), tokens, dtype=torch.bool, device=image.device)

    cached = condition_cache.layers[0].key.shape[2] if condition_cache else 0
    masks = [
        all_of(cached) if condition_mask is None else condition_mask,
        all_of(text.shape[1]) if glyph_mask is None else glyph_mask,
        all_of(image.shape[1]),
    ]
    return torch.cat(masks, dim=1)[:, None, None]
