"""The VAE with diffusers' own weights and convolutions, and Triton kernels between them (`glmkit.models.vae.kernels`).

The result is that of `AutoencoderKL.decode` and `encode` but for rounding; nothing is compiled by torch, so that a new
size costs nothing. Activations are in channels-last layout, as a GPU's convolutions want them. A convolution's bias is
added by whatever reads its result next, which saves a pass over the image.

Shapes as in `glmkit.models`; h w rows and columns of latents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from glmkit.models.vae import kernels

TILE = 4096  # values that a program takes at a time, of MAX_CHANNELS channels at most
MAX_CHANNELS = 128
PROGRAMS = 1024  # that sum one image
MERGED = 1024  # partial sums that are added up at a time
WARPS = 4
STAGES = 4


class Activation(NamedTuple):
    """Values B C H W in channels-last layout, to which `bias` C is still to be added."""

    values: Tensor
    bias: Tensor | None = None


def supports(autoencoder: AutoencoderKL) -> bool:
    """Return whether this is an autoencoder of the published kind: SiLU, and no attention but in the middle."""
    config: Any = autoencoder.config
    blocks = {*config.down_block_types, *config.up_block_types}
    return config.act_fn in ("silu", "swish") and blocks == {"DownEncoderBlock2D", "UpDecoderBlock2D"}


@torch.no_grad()
def decode(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return pixels B 3 H W of latents B C h w as the decoder takes them, not normalised."""
    decoder: Any = autoencoder.decoder
    with torch.cuda.device_of(latents):  # kernels go to the current device
        if autoencoder.post_quant_conv is not None:
            latents = autoencoder.post_quant_conv(latents)
        # Only residual sums, which lack no bias, are enlarged, padded or attended to.
        x = _middle(decoder.mid_block, convolved(decoder.conv_in, Activation(latents)))
        for block in decoder.up_blocks:
            *resnets, last = block.resnets
            for resnet in resnets:
                x = _residual(resnet, x)
            if block.upsamplers is None:
                x = _residual(last, x)
            else:
                x = convolved(block.upsamplers[0].conv, _residual(last, x, times=2))
        return _finished(decoder, x)


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Return B 2C h w, means and logarithms of variances of the posterior, of pixels B 3 H W."""
    encoder: Any = autoencoder.encoder
    with torch.cuda.device_of(pixels):
        x = convolved(encoder.conv_in, Activation(pixels))
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                x = _residual(resnet, x)
            if block.downsamplers is not None:
                # As published, zeros are added below and at the right only.
                x = convolved(block.downsamplers[0].conv, Activation(F.pad(x.values, (0, 1, 0, 1))))
        moments = _finished(encoder, _middle(encoder.mid_block, x))
        return moments if autoencoder.quant_conv is None else autoencoder.quant_conv(moments)


def _middle(block: Any, x: Activation) -> Activation:
    first, *resnets = block.resnets
    x = _residual(first, x)
    for attention, resnet in zip(block.attentions, resnets, strict=True):
        if attention is not None:
            x = Activation(_channels_last(attention(x.values)))
        x = _residual(resnet, x)
    return x


def _residual(resnet: Any, x: Activation, times: int = 1) -> Activation:
    """Compute a ResnetBlock2D, and enlarge its result so many times along each side."""
    h = convolved(resnet.conv1, Activation(normed(resnet.norm1, x)))
    h = convolved(resnet.conv2, Activation(normed(resnet.norm2, h)))
    shortcut = x if resnet.conv_shortcut is None else convolved(resnet.conv_shortcut, x)
    return Activation(joined(shortcut, h, times))


def _finished(module: Any, x: Activation) -> Tensor:
    """Compute the end of an Encoder or Decoder: norm, SiLU and a convolution of few channels, with its bias."""
    pixels: Tensor = module.conv_out(normed(module.conv_norm_out, x))
    return pixels


def convolved(conv: nn.Conv2d, x: Activation) -> Activation:
    """Compute a convolution without its bias, which is handed on.

    Where `x` itself lacks a bias, `conv` must be of single pixels: what it makes of the bias is the same everywhere.
    """
    bias = conv.bias
    if x.bias is not None:
        assert conv.kernel_size == (1, 1)
        convolved_bias = conv.weight.flatten(1).float() @ x.bias.float()
        bias = convolved_bias if bias is None else bias.float() + convolved_bias
    y = F.conv2d(_channels_last(x.values), conv.weight, None, conv.stride, conv.padding)
    return Activation(_channels_last(y), bias)


def normed(norm: nn.GroupNorm, x: Activation) -> Tensor:
    """Return silu(norm(x)), the statistics in float32."""
    values, added = x
    images, channels, height, width = values.shape
    pixels, block = height * width, _block(channels)
    blocks = triton.cdiv(channels, block["BLOCK_C"])
    chunk = triton.cdiv(pixels, max(1, PROGRAMS // blocks))
    chunk = triton.cdiv(chunk, block["BLOCK_P"]) * block["BLOCK_P"]
    chunks = triton.cdiv(pixels, chunk)
    means, squares = torch.empty(2, images, chunks, channels, device=values.device)
    kernels.sums_kernel[(chunks * blocks, images)](
        values, means, squares, pixels, chunk, chunks, channels, STAGES=STAGES, num_warps=WARPS, **block
    )
    factors, summands = torch.empty(2, images, channels, device=values.device)
    kernels.merge_kernel[(norm.num_groups, images)](
        means,
        squares,
        means if added is None else added,
        norm.weight,
        norm.bias,
        factors,
        summands,
        pixels,
        chunk,
        chunks,
        channels,
        channels // norm.num_groups,
        norm.eps,
        ADDED=added is not None,
        BLOCK=MERGED,
        num_warps=WARPS,
    )
    out = torch.empty_like(values)
    kernels.silu_kernel[(triton.cdiv(pixels, block["BLOCK_P"]) * blocks, images)](
        values, factors, summands, out, pixels, channels, num_warps=WARPS, **block
    )
    return out


def joined(x: Activation, y: Activation, times: int = 1) -> Tensor:
    """Return x + y, with each pixel repeated so many times along each side; a bias is what `y` lacks."""
    images, channels, height, width = x.values.shape
    block = _block(channels)
    assert y.bias is not None
    bias = y.bias if x.bias is None else x.bias.float() + y.bias.float()
    out = torch.empty(
        (images, channels, times * height, times * width),
        dtype=x.values.dtype,
        device=x.values.device,
        memory_format=torch.channels_last,
    )
    programs = triton.cdiv(height * width, block["BLOCK_P"]) * triton.cdiv(channels, block["BLOCK_C"])
    kernels.join_kernel[(programs, images)](
        x.values, y.values, bias, out, height * width, width, channels, TIMES=times, num_warps=WARPS, **block
    )
    return out


def _block(channels: int) -> dict[str, int]:
    """Return the pixels and channels of a tile."""
    width = min(MAX_CHANNELS, triton.next_power_of_2(channels))
    return {"BLOCK_P": TILE // width, "BLOCK_C": width}


def _channels_last(x: Tensor) -> Tensor:
    """Return `x` itself, but where a convolution or attention gave another layout."""
    return x.contiguous(memory_format=torch.channels_last)
