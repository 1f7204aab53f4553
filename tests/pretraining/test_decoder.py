"""The decoder's pretraining: priors that are stretched or noisy, texts that it never gets, letters it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_calls import decoder_calls
from PIL import Image
from torch import Tensor

from glmkit.errors import UserError
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import PretrainDecoderStage
from glmkit.pretraining.decoder import KIND, PretrainDecoderObjective, stretched
from glmkit.pretraining.posters import EverydayDataset, EverydayEditDataset, PosterDataset
from glmkit.training import data, features

CPU = torch.device("cpu")
SIZE = 64
STAGE: dict[str, Any] = {"steps": 1, "global_batch_size": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return HybridModel(tiny_model)


@pytest.fixture(scope="module")
def images(posters: Path) -> data.Datasets:
    return data.FileDataset(posters / "train"), data.FileDataset(posters / "validation")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decoder(hybrid: HybridModel, images: Any, **changes: Any) -> PretrainDecoderObjective:
    stage = PretrainDecoderStage(**{**STAGE, "caption_dropout": 0.0, **changes})
    objective = KIND.build(hybrid, images, stage, features.FeatureCache(CPU))
    assert isinstance(objective, PretrainDecoderObjective)
    return objective


@torch.no_grad()
def test_a_decoder_without_glyphs_is_told_no_text(hybrid: HybridModel, images: Any) -> None:
    """It gets the empty text of the unconditional pass; the prior stays. The same holds for validation losses."""
    objective = decoder(hybrid, images, glyphs=False)
    ((_, glyph, mask, prior, drop, *_),) = decoder_calls(objective, [0, 1], [3])
    empty, _ = hybrid.glyph.encode_texts([[]])
    assert torch.equal(mask.sum(dim=1), torch.tensor([empty.shape[1]] * 2))
    assert not drop.any()
    torch.testing.assert_close(glyph[mask], empty[0].expand(2, -1, -1).flatten(0, 1))
    torch.testing.assert_close(objective.validation.glyphs.embeddings([0])[0], empty)
    ((_, _, told_mask, same_prior, *_),) = decoder_calls(decoder(hybrid, images), [0, 1], [3])
    assert torch.equal(prior, same_prior)
    assert (told_mask.sum(dim=1) > mask.sum(dim=1)).all()


@torch.no_grad()
def test_the_prior_may_be_noisy(hybrid: HybridModel, images: Any) -> None:
    ((_, _, _, prior, *_),) = decoder_calls(decoder(hybrid, images), [0, 1], [3])
    ((_, _, _, noisy, drop, *_),) = decoder_calls(decoder(hybrid, images, prior_noise=1.0), [0, 1], [3])
    assert not drop.any()
    blocks = noisy.view(2, 2, 2, 2, 2)  # B h 2 w 2
    assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks)), "one id for 2x2 tokens, noisy or not"
    assert not torch.equal(noisy, prior)
    assert noisy.min() >= 0
    assert noisy.max() < 64


@torch.no_grad()
def test_half_of_the_priors_are_of_stretched_images(hybrid: HybridModel) -> None:
    """Each image by a factor of its own."""
    posters = PosterDataset(8, SIZE, SIZE, seed=0, workers=1, split="train")
    objective = decoder(hybrid, (posters, posters), prior_stretch=0.9)
    plain, other = objective.train.prior_token_ids, objective._stretched
    assert other is not None
    everything = list(range(8))
    of_stretched = 0
    for _, _, _, prior, *_ in decoder_calls(objective, everything, range(30)):
        for row in everything:
            own = prior[row].view(2, 2, 2, 2)[:, 0, :, 0]
            is_stretched = torch.equal(own, other[[row]][0].long())
            assert is_stretched or torch.equal(own, plain[[row]][0].long())
            of_stretched += is_stretched and not torch.equal(other[[row]], plain[[row]])
    differing = sum(not torch.equal(plain[[row]], other[[row]]) for row in everything)
    assert differing >= 3
    assert 0.3 < of_stretched / (30 * differing) < 0.7


@torch.no_grad()
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_some_priors_are_of_misspelt_texts(hybrid: HybridModel, share: float) -> None:
    """Only those of images that are made from a text; the image to generate is spelt right."""
    sets = [kind(8, 128, 128, 0, 1, "train") for kind in (EverydayDataset, EverydayEditDataset)]
    images = data.ConcatDataset(sets)
    objective = decoder(hybrid, (images, images), prior_misspelt=share)
    plain, other = objective.train.prior_token_ids, objective._misspelt
    assert other is not None
    for index in range(8):
        pixels = sets[0].misspelt_pixels([index], CPU)
        assert not torch.equal(pixels, images.pixels([index], CPU))
        assert torch.equal(other[[index]].long(), features.large_token_ids(hybrid.semantic_vq, pixels))
    prior = torch.cat([objective.sample_prior(range(8), seeded(number)) for number in range(30)])
    expected = torch.stack((plain[range(8)], other[range(8)].to(plain[[0]].dtype))).repeat(1, 30, 1, 1)
    differing = (expected[0] != expected[1]).flatten(1).any(dim=1)
    is_other = (prior == expected[1]).flatten(1).all(dim=1)
    assert (is_other | (prior == expected[0]).flatten(1).all(dim=1)).all()
    assert differing.sum() > 60
    assert is_other[differing].float().mean() == pytest.approx(share, abs=0.12)
    assert torch.equal(objective.sample_prior([9, 11], seeded(0)), plain[[9, 11]].long()), "edits keep theirs"


def test_images_from_files_cannot_be_misspelt(hybrid: HybridModel, images: Any) -> None:
    with pytest.raises(UserError, match="images from files"):
        decoder(hybrid, images, prior_misspelt=0.5)


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_letters_are_asked_for(tiny_model: Path, drop: float) -> None:
    """Cross-entropy of the character at each latent position from the tokens that enter a later block, weighted."""
    hybrid = HybridModel(tiny_model)
    hybrid.decoder.requires_grad_(True)
    posters = PosterDataset(2, SIZE, SIZE, seed=0, workers=1, split="train")
    torch.manual_seed(0)
    objective = decoder(hybrid, (posters, posters), character_weight=0.5, train_glyph=True, caption_dropout=drop)
    plain, _ = decoder(hybrid, (posters, posters), train_glyph=True, caption_dropout=drop).loss([0, 1], seeded(7))
    entered: list[Tensor] = []
    blocks = hybrid.decoder.transformer_blocks
    handle = blocks[2 * len(blocks) // 3].register_forward_pre_hook(lambda _, given: entered.append(given[1]))
    loss, shown = objective.loss([0, 1], seeded(7))
    handle.remove()
    if drop:
        assert shown["character"] == 0
        assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
        return
    trained: Any = objective.trained
    head, letters = trained["character"].tell, posters.character_labels([0, 1], CPU)
    nats = [
        -head(entered[0][image, 4 * (row // 2) + column // 2])
        .view(2, 2, 128)[row % 2, column % 2]
        .log_softmax(0)[int(letters[image, row, column])]
        for image, row, column in letters.nonzero().tolist()
    ]
    assert len(nats) > 5
    assert shown["character"].item() == pytest.approx(torch.stack(nats).mean().item(), abs=1e-4)
    assert loss.item() == pytest.approx((plain + 0.5 * shown["character"]).item(), abs=1e-4)
    (loss - plain).backward()
    assert hybrid.glyph.encoder.shared.weight.grad.abs().max() > 0
    assert head.weight.grad.abs().max() > 0


def test_stretched_about_the_middle() -> None:
    """As Pillow resizes and cuts; narrower images have their edges repeated."""
    gradient = torch.linspace(-1, 1, 64).expand(3, 48, 64)
    wide, narrow = stretched(torch.stack([gradient, gradient]), [1.25, 0.8])
    image = Image.fromarray(((gradient[0].numpy() + 1) * 127.5).astype(np.float32), mode="F")
    resized = np.asarray(image.resize((80, 48), Image.Resampling.BILINEAR))[:, 8:72]
    np.testing.assert_allclose((wide[0].numpy() + 1) * 127.5, resized, atol=0.1)
    assert (narrow[..., :6] == -1).all()
    assert (narrow[..., -6:] == 1).all()
    assert torch.allclose(narrow[..., 32] - narrow[..., 31], 1.25 * (gradient[..., 1] - gradient[..., 0]), atol=1e-5)
