"""The VAE: pixels to normalised latents and back, around diffusers' AutoencoderKL.

Shapes: B batch, C latent channels, H W rows and columns of pixels, h w of latents (H / scale, W / scale).
Normalised latents are `(z - latents_mean) / latents_std`, per channel, with the two lists of the checkpoint's config.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.models.devices import triton_runs


class Vae(nn.Module):
    """Encodes and decodes; `autoencoder` is the stock module, so its weights keep the published names.

    `by_kernels` says that kernels of our own run between its convolutions (see `use_kernels`).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder, self.by_kernels = autoencoder, False
        mean, std = autoencoder.config.latents_mean, autoencoder.config.latents_std
        if mean is None or std is None:
            raise UserError(
                "the VAE's config has no latents_mean and latents_std",
                found=f"latents_mean {mean}, latents_std {std}",
                fix="a checkpoint whose vae/config.json gives one number a latent channel for both",
            )
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    @property
    def scale(self) -> int:
        """Pixels a latent, along each side."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """New per-channel statistics, C numbers each; they are saved with the autoencoder's config."""
        self.autoencoder.register_to_config(latents_mean=list(mean), latents_std=list(std))
        self.mean.copy_(_per_channel(mean))
        self.std.copy_(_per_channel(std))

    def encode(self, pixels: Tensor) -> Tensor:
        """The normalised mode B C h w of the posterior of pixels B 3 H W in [-1, 1]."""
        return self.encode_distribution(pixels)[0]

    def encode_distribution(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, each B C h w, both in normalised units."""
        if self._drawn_by_kernels(pixels):
            from glmkit.models.vae import gpu as gpu_vae

            posterior = DiagonalGaussianDistribution(gpu_vae.encode(self.autoencoder, pixels))
        else:
            posterior = self.autoencoder.encode(pixels).latent_dist
        return (posterior.mean - self.mean) / self.std, posterior.std / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels B 3 H W of normalised latents B C h w; about [-1, 1], not clamped."""
        raw = latents * self.std + self.mean  # in the statistics' precision, float32 whatever the weights are
        raw = raw.to(self.autoencoder.dtype)
        if self._drawn_by_kernels(raw):
            from glmkit.models.vae import gpu as gpu_vae

            return gpu_vae.decode(self.autoencoder, raw)
        return self.autoencoder.decode(raw, return_dict=False)[0]

    def use_kernels(self) -> None:
        """On a GPU, after the last change of a weight: the quick way, where Triton and this VAE allow it.

        The weights are then laid out as the kernels want them, with which stock's way would be slower.
        """
        if not triton_runs(self.mean.device):
            return
        from glmkit.models.vae import gpu as gpu_vae

        if gpu_vae.fits(self.autoencoder):
            self.autoencoder.to(memory_format=torch.channels_last)
            self.by_kernels = True

    def _drawn_by_kernels(self, x: Tensor) -> bool:
        """The kernels give no gradients."""
        return self.by_kernels and not (torch.is_grad_enabled() and x.requires_grad)


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
