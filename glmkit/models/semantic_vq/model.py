"""The semantic tokenizer of GLM-Image: a vision transformer whose patch features are quantised to token ids.

Parameter names and numbers follow `GlmImageVisionModel` and `GlmImageVQVAE` of transformers 5 (`models/glm_image`).
Images come in halved (see `halved_size`), so that one 16-pixel patch stands for 32 pixels of the image.

Shapes as in `glmkit.models`; here C H W are channels, rows and columns of pixels, h w of patches (H / 16, W / 16),
N = h * w, E the width of a codebook entry, M the entries of the codebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.inputs.images import as_rgb

MAX_ASPECT = 4  # of an image, long side to short side
VISION_KEYS = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "in_channels",
    "image_size",
    "patch_size",
    "attention_bias",
    "layer_norm_eps",
)
VQ_KEYS = ("embed_dim", "num_embeddings")


@dataclass(frozen=True)
class SemanticVqConfig:
    """Hold the `vision_config` and `vq_config` of a published `vision_language_encoder/config.json`."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    image_size: int
    patch_size: int
    attention_bias: bool
    layer_norm_eps: float
    embed_dim: int
    num_embeddings: int

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> SemanticVqConfig:
        """Read a published config; KeyError names a missing key."""
        vision, vq = config["vision_config"], config["vq_config"]
        return cls(**{key: vision[key] for key in VISION_KEYS}, **{key: vq[key] for key in VQ_KEYS})


class Quantized(NamedTuple):
    """Hold what `SemanticTokenizer.quantize` returns.

    `features` B E h w: the L2-normalised codebook entries, with the gradient of the features they replace
    (straight-through). `token_ids` B h w. `commitment_loss` pulls features to entries, `codebook_loss` entries to
    features: mean squared distances.
    """

    features: Tensor
    token_ids: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor


class PatchEmbedding(nn.Module):
    """Pixels to patch embeddings (patchify)."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            config.in_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return B D h w."""
        return self.proj(pixels_BCHW)


class LearnedPositions(nn.Module):
    """A learned square grid of position embeddings, sampled bilinearly at the centres of whatever grid comes in."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.side = config.image_size // config.patch_size
        self.position_embedding = nn.Embedding(self.side**2, config.hidden_size)

    def forward(self, height: int, width: int) -> Tensor:
        """Return N D, float32, rows first."""
        weight = self.position_embedding.weight
        learned_1Dss = weight.float().view(self.side, self.side, -1).permute(2, 0, 1)[None]
        y, x = (
            (torch.arange(size, device=weight.device, dtype=torch.float32) + 0.5) / size * 2 - 1
            for size in (height, width)
        )
        grid_1hw2 = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)[None]
        sampled = F.grid_sample(learned_1Dss, grid_1hw2, mode="bilinear", padding_mode="border", align_corners=False)
        return sampled[0].flatten(1).T


class VisionAttention(nn.Module):
    """Full attention among the patches of one image."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return B N D."""
        batch, tokens, width = x_BND.shape
        qkv_3BKNd = self.qkv(x_BND).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        output_BKNd = F.scaled_dot_product_attention(*qkv_3BKNd.unbind(0))
        return self.proj(output_BKNd.transpose(1, 2).reshape(batch, tokens, width))


class VisionMlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return B N D."""
        return self.fc2(F.gelu(self.fc1(x)))


class VisionBlock(nn.Module):
    """Attention and MLP, each behind a norm."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = VisionAttention(config)
        self.mlp = VisionMlp(config)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return B N D."""
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class VisionEncoder(nn.Module):
    """A plain vision transformer without a final norm."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.embeddings = LearnedPositions(config)
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return patch features B D h w."""
        patches_BDhw = self.patch_embed(pixels_BCHW)
        height, width = patches_BDhw.shape[-2:]
        x_BND = patches_BDhw.flatten(2).transpose(1, 2)
        x_BND = x_BND + self.embeddings(height, width).to(x_BND.dtype)
        for block in self.blocks:
            x_BND = block(x_BND)
        return x_BND.transpose(1, 2).unflatten(2, (height, width))


class Codebook(nn.Module):
    """Finds the nearest entry by angle. Computed in float32: in bfloat16 most distances are ties."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.num_embeddings, config.embed_dim)

    def forward(self, features_BEhw: Tensor) -> Quantized:
        """Quantise features of any length; only their direction counts."""
        with torch.autocast(features_BEhw.device.type, enabled=False):
            unit_BhwE = F.normalize(features_BEhw.float().permute(0, 2, 3, 1), dim=-1)
            codebook_ME = F.normalize(self.embedding.weight.float(), dim=-1)
            ids_Bhw = (unit_BhwE.detach() @ codebook_ME.detach().T).argmax(dim=-1)
            chosen_BhwE = F.embedding(ids_Bhw, codebook_ME)
            commitment_loss = F.mse_loss(unit_BhwE, chosen_BhwE.detach())
            codebook_loss = F.mse_loss(chosen_BhwE, unit_BhwE.detach())
            passed_BhwE = unit_BhwE + (chosen_BhwE - unit_BhwE).detach()
        return Quantized(passed_BhwE.permute(0, 3, 1, 2), ids_Bhw, commitment_loss, codebook_loss)


class VectorQuantizer(nn.Module):
    """1x1 convolutions around the codebook. `post_quant_conv` maps entries back to the encoder's width."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.quantize = Codebook(config)
        self.quant_conv = nn.Conv2d(config.hidden_size, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.hidden_size, 1)

    def forward(self, features_BDhw: Tensor) -> Quantized:
        """Quantise patch features."""
        return self.quantize(self.quant_conv(features_BDhw))


class SemanticTokenizer(nn.Module):
    """Vision encoder and quantiser. Pixels are float, normalised as the processor does ([-1, 1] as published)."""

    def __init__(self, config: SemanticVqConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = VisionEncoder(config)
        self.vqmodel = VectorQuantizer(config)

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Return patch features B D h w of images of one size, H and W multiples of the patch size."""
        return self.visual(pixels_BCHW)

    def quantize(self, features_BDhw: Tensor) -> Quantized:
        """Quantise patch features, with the losses and the gradient that training needs."""
        return self.vqmodel(features_BDhw)

    def forward(self, pixels_BCHW: Tensor) -> Quantized:
        """Quantise images of one size."""
        return self.quantize(self.features(pixels_BCHW))

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Return token ids, int64 B h w."""
        quantized: Quantized = self(pixels_BCHW)
        return quantized.token_ids


def halved_size(height: int, width: int, min_pixels: int, max_pixels: int, patch: int = 16) -> tuple[int, int]:
    """Return the size (height, width), multiples of 16, at which a condition image of this size enters the encoder.

    The short side is first scaled up to sqrt(min_pixels) when it is shorter, the long side then down to
    sqrt(max_pixels) when it is longer; the result is halved and rounded (`smart_resize` of the published processor,
    odd sides rounded down before the halving). Raises UserError for a side under 16 or an aspect ratio over 4.
    """
    short, long = sorted((height, width))
    if short < patch:
        raise UserError(f"a condition image must be at least {patch} pixels on each side", found=f"{width}x{height}")
    if long > MAX_ASPECT * short:
        raise UserError(
            f"a condition image may be at most {MAX_ASPECT} times as long as wide",
            found=f"{width}x{height}",
            fix="crop the image",
        )
    shortest, longest = round(min_pixels**0.5), round(max_pixels**0.5)
    scale = max(1.0, shortest / short)
    if long * scale > longest:
        scale = longest / long
    halved = (max(patch, round(side // 2 * scale / patch) * patch) for side in (height, width))
    return next(halved), next(halved)


def prepare_image(image: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize an image to the given (height, width), bicubic with antialiasing on 8 bits, then normalise: float C h w.

    Transparent regions lie on white. The kernel is that of the published processor (torchvision's resize of uint8).
    """
    pixels_HWC = torch.from_numpy(np.array(as_rgb(image)))
    pixels_1CHW = pixels_HWC.permute(2, 0, 1)[None].contiguous()
    resized_Chw = F.interpolate(pixels_1CHW, size=size, mode="bicubic", antialias=True, align_corners=False)[0]
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (resized_Chw.float() / 255 - mean_C11) / std_C11
