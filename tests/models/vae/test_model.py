"""The VAE wrapper against the arithmetic of GlmImagePipeline around a tiny AutoencoderKL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from glmkit.errors import UserError
from glmkit.models.vae.model import Vae

MEAN, STD = [0.5, -1.25, 0.0, 2.0], [3.0, 0.5, 1.0, 2.25]


def tiny_autoencoder(**statistics: list[float] | None) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **statistics,
    ).eval()


@pytest.fixture(scope="module")
def vae() -> Vae:
    return Vae(tiny_autoencoder(latents_mean=MEAN, latents_std=STD)).requires_grad_(False)


def test_encode_normalises_the_posterior(vae: Vae) -> None:
    pixels = torch.rand(2, 3, 32, 64) * 2 - 1
    posterior = vae.autoencoder.encode(pixels).latent_dist
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (MEAN, STD))
    expected = (posterior.mode() - mean) / std
    assert vae.encode(pixels).shape == (2, 4, 4, 8)
    assert torch.allclose(vae.encode(pixels), expected, atol=1e-6)
    ours, spread = vae.encode_distribution(pixels)
    assert torch.equal(ours, vae.encode(pixels))
    assert torch.allclose(spread * std, posterior.std, atol=1e-6)


def test_decode_undoes_the_normalisation(vae: Vae) -> None:
    latents = torch.randn(2, 4, 4, 8)
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (MEAN, STD))
    expected = vae.autoencoder.decode(latents * std + mean).sample
    assert vae.decode(latents).shape == (2, 3, 32, 64)
    assert torch.allclose(vae.decode(latents), expected, atol=1e-5)


def test_scale(vae: Vae) -> None:
    assert vae.scale == 8


def test_statistics_live_in_the_config_only(vae: Vae, tmp_path: Path) -> None:
    """A checkpoint of the autoencoder alone carries them, and the reference reads them from there."""
    assert all(name.startswith("autoencoder.") for name in vae.state_dict())
    other = Vae(tiny_autoencoder(latents_mean=[0.0] * 4, latents_std=[1.0] * 4))
    other.autoencoder.load_state_dict(vae.autoencoder.state_dict())
    other.set_statistics(MEAN, STD)
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(other.encode(pixels), vae.encode(pixels))
    other.autoencoder.save_pretrained(tmp_path)
    again = Vae(AutoencoderKL.from_pretrained(tmp_path))
    assert torch.equal(again.encode(pixels), vae.encode(pixels))


def test_a_config_without_statistics_is_refused() -> None:
    with pytest.raises(UserError, match="latents_mean"):
        Vae(tiny_autoencoder())
