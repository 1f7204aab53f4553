"""The VAE: pixels -> latents -> pixels, on random crops (it is fully convolutional). B batch, H W pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from glmkit.errors import UserError
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import VaeStage
from glmkit.pretraining.initialise import fresh_or_loaded
from glmkit.training.data import Datasets, ImageDataset, first_batches
from glmkit.training.objectives import Objective, StageKind


def check_crop(images: ImageDataset, stage: VaeStage) -> None:
    """Raise UserError when a crop does not fit into every image."""
    smallest = min(map(min, images.sizes))
    if stage.crop > smallest:
        raise UserError(
            "the crops are larger than the images",
            found=f"vae.crop {stage.crop}, a side of {smallest} pixels",
            fix=f"vae.crop={smallest}",
        )


class VaeObjective(Objective):
    """Reconstructs pixels: L1 + squared error + L1 on neighbouring pixels' differences (letters live on edges) + KL.

    A VAE that has seen few colours reconstructs no others: `stage.recolour` shows it more.
    """

    def __init__(self, hybrid: HybridModel, _: None, datasets: Datasets, stage: VaeStage) -> None:
        self.vae, self.trained = hybrid.vae, hybrid.vae.autoencoder
        images, validation = datasets
        self.images, self.validation_images, self.stage, self.device = images, validation, stage, hybrid.device
        self.validation_groups = first_batches(validation.sizes, 16, limit=len(validation.sizes))
        self._reconstruct = self._forward

    def _forward(self, crops: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.trained.encoder(crops).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return self.trained.decoder(mean + (0.5 * log_variance).exp() * noise).float(), kl

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on one random crop of every image, its PSNR in dB and its KL divergence."""
        pixels = self.images.pixels(indices, self.device)
        mask = self.images.text_mask(indices, self.device) if self.stage.text_weight else None
        top, left = _corner(pixels, self.stage.crop, generator)
        window = (..., slice(top, top + self.stage.crop), slice(left, left + self.stage.crop))
        crops = recoloured(pixels[window], self.stage.recolour, generator)
        latent = (len(crops), self.trained.config.latent_channels, self.stage.crop // 8, self.stage.crop // 8)
        noise = torch.randn(latent, generator=generator, device=self.device)
        reconstructed, kl = self._reconstruct(crops, noise)
        weight = 1 + self.stage.text_weight * mask[window] if mask is not None else torch.ones_like(crops[:, :1])
        difference = reconstructed - crops
        pixel = (weight * (difference.abs() + difference.square())).mean()
        edge = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        loss = pixel + self.stage.edge_weight * edge + self.stage.kl_weight * kl
        return loss, {"psnr": psnr(reconstructed.detach(), crops), "kl": kl.detach()}

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Return the PSNR in dB on whole images, from the latents' mean, and of the same images in other colours if
        training recolours; `loss` is the negative of their mean.
        """
        scores = {"psnr": self._psnr(0.0)}
        if self.stage.recolour:
            scores["recoloured"] = self._psnr(1.0)
        return {"loss": -sum(scores.values()) / len(scores), **scores}

    def _psnr(self, share: float) -> float:
        errors, generator = [], torch.Generator(self.device).manual_seed(0)
        for indices in self.validation_groups:
            pixels = recoloured(self.validation_images.pixels(indices, self.device), share, generator)
            reconstructed = self.trained.decoder(self._mean(pixels)).clamp(-1, 1)
            errors.append((reconstructed - pixels).square().mean(dim=(1, 2, 3)))
        return -10 * math.log10(torch.cat(errors).mean().item() / 4)

    @torch.no_grad()
    def finish(self) -> None:
        """Measure the latents' mean and standard deviation per channel, which every later stage normalises with."""
        latents = [
            self._mean(self.images.pixels(indices, self.device)).transpose(0, 1).flatten(1)
            for indices in first_batches(self.images.sizes, 16, limit=512)
        ]
        values = torch.cat(latents, dim=1).double()
        self.vae.set_statistics(values.mean(dim=1).tolist(), values.std(dim=1).tolist())

    def _mean(self, pixels: Tensor) -> Tensor:
        mean: Tensor = self.trained.encoder(pixels).chunk(2, dim=1)[0]
        return mean

    def compile(self) -> None:
        """Compile encoder and decoder together."""
        self._reconstruct = torch.compile(self._forward, dynamic=False)


def _corner(pixels: Tensor, crop: int, generator: torch.Generator) -> tuple[int, int]:
    """Sample one corner for the whole batch; on the CPU, from the step's own seed."""
    cpu = torch.Generator().manual_seed(generator.initial_seed() ^ 1)
    height, width = pixels.shape[-2:]
    top = int(torch.randint(height - crop + 1, (), generator=cpu))
    left = int(torch.randint(width - crop + 1, (), generator=cpu))
    return top, left


def recoloured(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Give other colours to about a `share` of the images B 3 H W in [-1, 1].

    Channels are shuffled, and each of them is stretched over a random part of [-1, 1], upside down in half of the
    cases: any two colours can become any other two.
    """
    if not share:
        return pixels
    size, draw = len(pixels), partial(torch.rand, generator=generator, device=pixels.device)
    order = draw(size, 3).argsort(dim=1)
    shuffled = pixels[torch.arange(size, device=pixels.device)[:, None], order]
    low, high = 2 * draw(2, size, 3, 1, 1) - 1
    other = torch.lerp(low, high, (shuffled + 1) / 2)
    return torch.where(draw(size, 1, 1, 1) < share, other, pixels)


def psnr(images: Tensor, true: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of pixels in [-1, 1] (peak to peak 2), over the whole batch."""
    return -10 * torch.log10((images - true).square().mean() / 4)


KIND = StageKind(VaeObjective, load=fresh_or_loaded)
