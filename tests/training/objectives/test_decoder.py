"""The loss of the decoder, against flow matching written out over the reference model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_calls import decoder_calls
from reference_losses import (
    CPU,
    SIZE,
    decoder,
    reference_error,
    sample_times_and_noise,
    seeded,
)

from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.posters import PosterDataset


@pytest.mark.parametrize("indices", [[0], [2, 0, 3, 1], [4, 5]])
@torch.no_grad()
def test_decoder_loss(hybrid: HybridModel, images: Any, indices: list[int]) -> None:
    """Own prior, each id for 2x2 decoder tokens; texts of several lengths in one batch; not square as well."""
    loss, shown = decoder(hybrid, images, logit_std=1.3).loss(indices, seeded(7))
    height, width = images[0].sizes[indices[0]]
    times, noise = sample_times_and_noise(7, len(indices), height, width, std=1.3)
    rows = [
        reference_error(hybrid, images[0], index, row, time)
        for index, row, time in zip(indices, noise, times, strict=True)
    ]
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)
    assert shown == {}


@torch.no_grad()
def test_dropped_is_the_unconditional_of_generation(hybrid: HybridModel, images: Any) -> None:
    loss, _ = decoder(hybrid, images, caption_dropout=1.0).loss([0, 1], seeded(7))
    times, noise = sample_times_and_noise(7, 2, SIZE, SIZE)
    rows = [reference_error(hybrid, images[0], index, noise[index], times[index], drop=True) for index in (0, 1)]
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)
    conditional, _ = decoder(hybrid, images).loss([0, 1], seeded(7))
    assert abs(loss - conditional) > 1e-3


@torch.no_grad()
def test_prior_and_text_are_dropped_together(hybrid: HybridModel, images: Any) -> None:
    objective = decoder(hybrid, images, caption_dropout=0.4)
    empty = hybrid.glyph.encode_texts([[]])[0][0]
    gone = []
    for _, glyph, mask, _, drop, *_ in decoder_calls(objective, [0, 1, 2, 3], range(60)):
        for row in range(4):
            text = glyph[row][mask[row]]
            is_empty = text.shape == empty.shape and torch.allclose(text, empty, atol=1e-6)
            assert is_empty == bool(drop[row])
            gone.append(is_empty)
    assert 0.28 < np.mean(gone) < 0.52


@torch.no_grad()
def test_a_drop_tells_nothing_about_the_time(hybrid: HybridModel, images: Any) -> None:
    """Both come from the step's seed. In a batch of 16 and more torch's normal numbers follow its uniform ones."""
    steps = decoder_calls(decoder(hybrid, images, caption_dropout=0.4), [0, 1, 2, 3] * 8, range(15))
    gone = torch.cat([drop for _, _, _, _, drop, *_ in steps]).numpy()
    times = torch.cat([timestep for _, _, _, _, _, timestep, *_ in steps]).numpy()
    for measure in (times, np.abs(times - 500)):
        assert abs(np.corrcoef(gone, measure)[0, 1]) < 0.15


@torch.no_grad()
def test_the_prior_alone_may_be_dropped(hybrid: HybridModel, images: Any) -> None:
    ((_, _, mask, prior, drop, *_),) = decoder_calls(decoder(hybrid, images, prior_token_drop=1.0), [0, 1], [3])
    assert drop.all()
    assert mask.sum(dim=1).gt(1).all(), "the texts stay"
    blocks = prior.view(2, 2, 2, 2, 2)  # B h 2 w 2
    assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks)), "one id for 2x2 tokens"


@torch.no_grad()
def test_text_counts_more(hybrid: HybridModel) -> None:
    """Weights of 1 + text_weight * share of text, relative to their mean; the plain error is shown beside it."""
    posters = PosterDataset(2, SIZE, SIZE, seed=0, workers=1, split="train")
    objective = decoder(hybrid, (posters, posters), text_weight=5.0)
    loss, shown = objective.loss([0, 1], seeded(7))
    times, noise = sample_times_and_noise(7, 2, SIZE, SIZE)
    error = torch.stack([reference_error(hybrid, posters, index, noise[index], times[index]) for index in (0, 1)])
    mask = posters.text_mask([0, 1], CPU)
    assert mask is not None
    weight = (1 + 5 * mask.view(2, 1, 8, 8, 8, 8).mean(dim=(3, 5))).expand_as(error)
    assert loss.item() == pytest.approx(((error * weight).sum() / weight.sum()).item(), rel=2e-3)
    assert shown["mse"].item() == pytest.approx(error.mean().item(), abs=1e-4)


@torch.no_grad()
def test_decoder_validation(hybrid: HybridModel, images: Any) -> None:
    """Eight times spread over the schedule, fixed noise, nothing dropped; the same whatever was trained before."""
    objective = decoder(hybrid, images, caption_dropout=0.5)
    losses = objective.validation_losses()
    rows = []
    for number, time in enumerate(np.linspace(60, 940, 8)):
        noise = torch.randn(3, 4, 8, 8, generator=seeded(1000 * number))
        noise = torch.stack([noise, torch.zeros_like(noise)], dim=1)
        rows += [reference_error(hybrid, images[1], index, noise[index], float(time)).mean() for index in range(3)]
    assert losses == {"loss": pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)}
    torch.manual_seed(5)
    objective.loss([0, 1], seeded(1))
    assert objective.validation_losses() == losses


@pytest.mark.parametrize("train_glyph", [False, True])
def test_what_the_decoder_stage_trains(tiny_model: Path, images: Any, train_glyph: bool) -> None:
    hybrid = HybridModel(tiny_model)
    hybrid.decoder.requires_grad_(True)
    objective = decoder(hybrid, images, train_glyph=train_glyph)
    objective.loss([0, 1], seeded(0))[0].backward()
    trained = {id(parameter) for parameter in objective.trained.parameters() if parameter.requires_grad}
    glyph = list(hybrid.glyph.parameters())
    assert all((id(parameter) in trained) == train_glyph for parameter in glyph)
    assert all((parameter.grad is not None) == train_glyph for parameter in glyph if parameter.ndim > 1)
    assert all(id(parameter) in trained for parameter in hybrid.decoder.parameters())
