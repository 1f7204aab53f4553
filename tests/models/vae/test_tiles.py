"""Decoding in tiles gives what diffusers gives with `enable_tiling`."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from glmkit.models.vae.model import Vae

TILE = 8


def autoencoder(**changes: object) -> AutoencoderKL:
    torch.manual_seed(0)
    settings = {"block_out_channels": (8, 8), "norm_num_groups": 4, "mid_block_add_attention": False} | changes
    return (
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            sample_size=2 * TILE,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 1.1, 2.0],
            **settings,
        )
        .eval()
        .requires_grad_(False)
    )


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def by_diffusers(vae: Vae, latents: Tensor) -> Tensor:
    reference = copy.deepcopy(vae.autoencoder)
    reference.enable_tiling()
    pixels: Tensor = reference.decode(latents * vae.std + vae.mean).sample
    return pixels


@pytest.mark.parametrize("size", [(16, 16), (9, 20), (8, 13), (27, 6), (14, 9)])
def test_as_diffusers(size: tuple[int, int]) -> None:
    """Sides of many tiles and of one, last tiles of one row or column, and those that lie within the one before."""
    vae, latents = Vae(autoencoder()), random(2, 4, *size)
    tiled, whole = vae.decode(latents, tiled=True), vae.decode(latents)
    torch.testing.assert_close(tiled, by_diffusers(vae, latents), atol=1e-5, rtol=0)
    assert (tiled - whole).abs().max() > 1e-2, "a tile sees less than the image"


def test_a_small_image_is_decoded_whole() -> None:
    vae, latents = Vae(autoencoder()), random(1, 4, TILE, TILE - 1)
    assert torch.equal(vae.decode(latents, tiled=True), vae.decode(latents))


def test_no_more_than_a_tile_is_in_the_memory() -> None:
    vae, seen = Vae(autoencoder()), []
    decoder: nn.Module = vae.autoencoder.decoder
    decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    vae.decode(random(1, 4, 20, 14), tiled=True)
    assert len(seen) == 4 * 3
    assert max(max(shape) for shape in seen) == TILE


@pytest.mark.gpu
def test_by_kernels() -> None:
    """In bfloat16 on a GPU, against diffusers there."""
    vae = Vae(autoencoder(block_out_channels=(32, 64), norm_num_groups=8)).to("cuda", torch.bfloat16)
    latents = random(1, 4, 20, 14).to("cuda")
    reference = copy.deepcopy(vae.autoencoder)
    reference.enable_tiling()
    expected = reference.decode((latents * vae.std + vae.mean).bfloat16()).sample.float()
    vae.use_kernels()
    ours = vae.decode(latents, tiled=True)
    assert (ours - expected).norm() / expected.norm() < 0.02
