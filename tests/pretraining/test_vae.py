"""The VAE stage: its loss, its PSNR and its statistics, written out over the reference autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoint
import torch

from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import VaeStage
from glmkit.pretraining.posters import PosterDataset
from glmkit.pretraining.vae import VaeObjective, psnr, recoloured
from glmkit.training import data

CPU = torch.device("cpu")


def objective(hybrid: HybridModel, images: Any, validation: Any, **changes: Any) -> VaeObjective:
    values = {"steps": 1, "global_batch_size": 2, "learning_rate": 1e-3, "crop": 64, **changes}
    return VaeObjective(hybrid, None, (images, validation), VaeStage(**values))


def test_psnr() -> None:
    """Of 8-bit levels: 10 log10(255^2 / mean squared error)."""
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 256, (2, 2, 3, 8, 8)).astype(np.float64)
    expected = 10 * np.log10(255**2 / ((one - other) ** 2).mean())
    found = psnr(torch.from_numpy(one / 127.5 - 1), torch.from_numpy(other / 127.5 - 1))
    assert found.item() == pytest.approx(expected, abs=1e-9)


@torch.no_grad()
def test_loss(tiny_model: Path) -> None:
    hybrid = HybridModel(tiny_model)
    posters = PosterDataset(3, 64, 64, seed=0, workers=1, split="train")
    stage: dict[str, float] = {"text_weight": 3.0, "edge_weight": 0.7, "kl_weight": 0.01}
    loss, shown = objective(hybrid, posters, posters, **stage).loss([2, 0], torch.Generator().manual_seed(4))

    vae = tiny_checkpoint.diffusers_pipeline(tiny_model).vae
    pixels, mask = posters.pixels([2, 0], CPU), posters.text_mask([2, 0], CPU)
    posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(4))
    error = vae.decode(posterior.mean + posterior.std * noise).sample - pixels
    assert mask is not None
    pixel = ((1 + 3 * mask) * (error.abs() + error**2)).mean()
    edge = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    kl = posterior.kl().sum() / posterior.mean.numel()  # reference sums 0.5 (mean^2 + variance - 1 - log variance)
    assert loss.item() == pytest.approx((pixel + 0.7 * edge + 0.01 * kl).item(), rel=1e-5)
    assert shown["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert shown["psnr"].item() == pytest.approx((10 * torch.log10(4 / (error**2).mean())).item(), rel=1e-5)


@torch.no_grad()
def test_crops_of_image_and_text_agree(tiny_model: Path) -> None:
    """Crops move from step to step; the text weight stays on the text."""
    hybrid = HybridModel(tiny_model)
    posters = PosterDataset(2, 64, 96, seed=0, workers=1, split="train")
    stage = objective(hybrid, posters, posters, crop=32, text_weight=1.0)
    whole, seen = posters.pixels([0, 1], CPU), []
    stage._reconstruct = lambda crops, _: (seen.append(crops), (crops, crops.sum() * 0))[1]  # type: ignore[func-returns-value, assignment]
    for seed in range(12):
        loss, _ = stage.loss([0, 1], torch.Generator().manual_seed(seed))
        assert loss == 0
    corners = set()
    for crops in seen:
        places = [
            (y, x) for y in range(33) for x in range(65) if torch.equal(whole[..., y : y + 32, x : x + 32], crops)
        ]
        assert places, "a crop is a part of the image, the same corner in the whole batch"
        corners.add(places[0])
    assert len(corners) > 6


@torch.no_grad()
def test_validation_and_statistics(tiny_model: Path, posters: Path) -> None:
    hybrid = HybridModel(tiny_model)
    train, validation = data.FileDataset(posters / "train"), data.FileDataset(posters / "validation")
    stage = objective(hybrid, train, validation)
    vae = tiny_checkpoint.diffusers_pipeline(tiny_model).vae

    def reconstructed(pixels: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        return images.clamp(-1, 1)

    pixels = validation.pixels([0, 1, 2], CPU)
    expected = 10 * np.log10(4 / (reconstructed(pixels) - pixels).square().mean().item())
    assert stage.validation_losses() == {
        "loss": pytest.approx(-expected, abs=1e-4),
        "psnr": pytest.approx(expected, abs=1e-4),
    }

    raw = [vae.encode(train.pixels([index], CPU)).latent_dist.mode()[0].flatten(1) for index in range(6)]
    values = torch.cat(raw, dim=1).double()
    stage.finish()
    config = hybrid.vae.autoencoder.config
    assert config.latents_mean == pytest.approx(values.mean(dim=1).tolist(), abs=1e-5)
    assert config.latents_std == pytest.approx(values.std(dim=1).tolist(), rel=1e-4)
    normalised = torch.cat([hybrid.vae.encode(train.pixels([i], CPU))[0].flatten(1) for i in range(6)], dim=1)
    torch.testing.assert_close(normalised.mean(dim=1), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised.std(dim=1), torch.ones(4), atol=1e-3, rtol=0)


def test_other_colours_keep_the_image() -> None:
    """A channel becomes another one, stretched or turned over, within the range."""
    pixels = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    changed = recoloured(pixels, 1.0, torch.Generator().manual_seed(2))
    assert changed.abs().max() <= 1
    sources, turned = set(), 0
    for before, after in zip(pixels.flatten(2), changed.flatten(2), strict=True):
        alike = torch.corrcoef(torch.cat([after, before]))[:3, 3:]  # an affine map correlates fully
        order = alike.abs().argmax(dim=1)
        assert sorted(order.tolist()) == [0, 1, 2]
        assert alike.abs().max(dim=1).values.min() > 0.9999
        sources.add(tuple(order.tolist()))
        turned += int(alike[0, order[0]] < 0)
    assert len(sources) == 6, "all orders of the channels occur"
    assert 16 < turned < 48


def test_a_share_gets_other_colours() -> None:
    pixels = torch.rand(400, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    unchanged = (recoloured(pixels, 0.25, torch.Generator().manual_seed(3)) == pixels).flatten(1).all(dim=1)
    assert 270 < unchanged.sum() < 330
    assert recoloured(pixels, 0.0, torch.Generator()) is pixels


def test_validation_measures_both_kinds_of_images(tiny_model: Path) -> None:
    hybrid = HybridModel(tiny_model)
    posters = PosterDataset(4, 64, 64, seed=0, workers=1, split="train")
    stage = objective(hybrid, posters, posters, recolour=0.5)
    found = stage.validation_losses()
    assert found["loss"] == pytest.approx(-(found["psnr"] + found["recoloured"]) / 2)
    pixels = recoloured(posters.pixels([0, 1, 2, 3], CPU), 1.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        reconstructed = hybrid.vae.decode(hybrid.vae.encode(pixels)).clamp(-1, 1)
    assert found["recoloured"] == pytest.approx(psnr(reconstructed, pixels).item(), abs=1e-3)
