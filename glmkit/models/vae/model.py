"""The VAE: pixels to normalised latents and back, around diffusers' AutoencoderKL.

Shapes as in `glmkit.models`; here C are latent channels, H W rows and columns of pixels, h w of latents (H / scale,
W / scale).
Normalised latents are `(z - latents_mean) / latents_std`, per channel, with the two lists of the checkpoint's config.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.models.devices import triton_runs
from glmkit.models.vae import tiles


class Vae(nn.Module):
    """Encodes and decodes; `autoencoder` is the module of diffusers, so its weights keep the published names.

    `uses_kernels` says that Triton's kernels run between its convolutions (see `use_kernels`).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder, self.uses_kernels = autoencoder, False
        mean, std = autoencoder.config.latents_mean, autoencoder.config.latents_std
        if mean is None or std is None:
            raise UserError(
                "the VAE's config has no latents_mean and latents_std",
                found=f"latents_mean {mean}, latents_std {std}",
                fix="a checkpoint whose vae/config.json gives one number per latent channel for both",
            )
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    @property
    def scale(self) -> int:
        """Return the pixels per latent, along each side."""
        levels = len(self.autoencoder.config.block_out_channels)
        return int(2 ** (levels - 1))

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set per-channel statistics, C numbers each; they are saved with the autoencoder's config."""
        self.autoencoder.register_to_config(latents_mean=list(mean), latents_std=list(std))
        self.mean.copy_(_per_channel(mean))
        self.std.copy_(_per_channel(std))

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the normalised mode B C h w of the posterior of pixels B 3 H W in [-1, 1]."""
        return self.encode_distribution(pixels)[0]

    def encode_distribution(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the posterior, each B C h w, both in normalised units."""
        if self._by_kernels(pixels):
            from glmkit.models.vae import gpu

            posterior = DiagonalGaussianDistribution(gpu.encode(self.autoencoder, pixels))
        else:
            posterior = self.autoencoder.encode(pixels).latent_dist
        return (posterior.mean - self.mean) / self.std, posterior.std / self.std

    def decode(self, latents: Tensor, tiled: bool = False) -> Tensor:
        """Return pixels B 3 H W of normalised latents B C h w; about [-1, 1], not clamped.

        `tiled`: what is larger than a tile is decoded in several (`glmkit.models.vae.tiles`).
        """
        raw = latents * self.std + self.mean  # in the statistics' precision, float32 whatever the weights are
        raw = raw.to(self.autoencoder.dtype)
        if tiled and tiles.is_tiled(self.autoencoder, raw):
            return tiles.decode(self.autoencoder, raw, self._decode_whole, self.scale)
        return self._decode_whole(raw)

    def _decode_whole(self, raw: Tensor) -> Tensor:
        if self._by_kernels(raw):
            from glmkit.models.vae import gpu

            return gpu.decode(self.autoencoder, raw)
        return cast(Tensor, self.autoencoder.decode(raw, return_dict=False)[0])

    def use_kernels(self) -> None:
        """Take the fast way from now on, where Triton and this VAE allow it; for weights that no longer change.

        The weights are then laid out as the kernels want them, with which diffusers' way would be slower.
        """
        if not triton_runs(self.mean.device):
            return
        from glmkit.models.vae import gpu

        if gpu.supports(self.autoencoder):
            self.autoencoder.to(memory_format=torch.channels_last)
            self.uses_kernels = True

    def _by_kernels(self, x: Tensor) -> bool:
        """Return whether the kernels do it, which give no gradients."""
        return self.uses_kernels and not (torch.is_grad_enabled() and x.requires_grad)


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
