"""Prior tokens that the autoregressive model samples, against transformers' model and sampling written out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoint
import torch
from torch import Tensor

from glmkit import config
from glmkit.config import DecoderStage
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sampling import Sampling, uniforms
from glmkit.generation.sequence import training_sequence
from glmkit.models.checkpoint import defaults
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.posters import EditDataset, PosterDataset
from glmkit.training import data, features, plan
from glmkit.training.objectives import stage_kinds
from glmkit.training.objectives.decoder import DecoderObjective
from glmkit.training.objectives.resampled_priors import mixed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> HybridModel:
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("sampled") / "model"))
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20}
    (folder / defaults.GENERATION_CONFIG).write_text(json.dumps(sampling))
    return HybridModel(folder)


@pytest.fixture(scope="module")
def images() -> data.ImageDataset:
    """Three edits, whose conditions are descriptions, and two descriptions more."""
    return data.ConcatDataset(
        [kind(count, 64, 96, 0, 1, "train") for kind, count in ((EditDataset, 3), (PosterDataset, 2))]
    )


def decoder(hybrid: HybridModel, images: Any, **changes: Any) -> DecoderObjective:
    stage = DecoderStage(steps=1, global_batch_size=2, learning_rate=1e-3, **changes)
    objective = stage_kinds()["decoder"].build(hybrid, (images, images), stage, features.FeatureCache(CPU))
    assert isinstance(objective, DecoderObjective)
    return objective


def expected(hybrid: HybridModel, images: data.ImageDataset, index: int) -> Tensor:
    """The large grid, each token sampled behind the true ones before it, one image alone."""
    tokenizer, model = prompt_tokenizer(hybrid.folder), hybrid.autoregressive
    caption, size, sources = images.captions[index], images.sizes[index], images.condition_images.get(index, ())
    large, *tokens = (
        features.large_token_ids(hybrid.semantic_vq, images.pixels([one], CPU))[0] for one in (index, *sources)
    )
    if sources:
        prompt, grids, conditions = tokenizer.edit(caption, tokens, *size), [large], [(2, 3)]
    else:
        preview = features.preview_token_ids(hybrid.semantic_vq, images.pixels([index], CPU))[0]
        prompt, grids, conditions = tokenizer.text_to_image(caption, *size), [preview, large], []
    sequence = training_sequence(prompt, grids, model.config, conditions)
    reference = tiny_checkpoint.diffusers_pipeline(hybrid.folder).vision_language_encoder
    hidden = reference.model.language_model(
        input_ids=sequence.ids_T[None], position_ids=sequence.positions_3T[:, None]
    ).last_hidden_state
    logits = reference.lm_head(hidden)[0, -large.numel() - 2 : -2]
    numbers = uniforms(index, large.numel()).double().numpy()
    return torch.tensor([drawn(*pair) for pair in zip(logits.double().numpy(), numbers, strict=True)]).view_as(large)


def drawn(logits: np.ndarray, number: float) -> int:
    sampling = Sampling(temperature=0.8, top_p=0.9, top_k=20)
    order = np.argsort(-logits, kind="stable")[: sampling.top_k]
    odds = np.exp(logits[order] / sampling.temperature)
    odds /= odds.sum()
    kept = int((np.cumsum(odds) - odds < sampling.top_p).sum())
    return int(order[np.searchsorted(np.cumsum(odds[:kept]) / odds[:kept].sum(), number, side="right")])


@torch.no_grad()
def test_every_token_is_sampled_behind_the_true_ones(hybrid: HybridModel, images: data.ImageDataset) -> None:
    objective = decoder(hybrid, images, prior_resampled=1.0)
    resampled = objective.train.resampled
    assert resampled is not None
    for indices in ([0, 2, 4, 6, 7], [1, 3, 5]):
        prior = objective.sample_prior(indices, torch.Generator())
        for index, row in zip(indices, prior, strict=True):
            assert torch.equal(row, expected(hybrid, images, index)), index
        assert not torch.equal(prior, objective.train.prior_token_ids[indices].long())
    assert objective.validation.resampled is None


def test_a_share_of_the_images() -> None:
    true, other = torch.zeros(4000, 2, 3, dtype=torch.int64), torch.ones(4000, 2, 3, dtype=torch.int16)
    prior = mixed(true, other, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(prior.amin(dim=(1, 2)), prior.amax(dim=(1, 2))), "whole images"
    assert prior.double().mean() == pytest.approx(0.3, abs=0.03)


def test_without_it_nothing_is_sampled(hybrid: HybridModel, images: data.ImageDataset) -> None:
    objective = decoder(hybrid, images)
    assert objective.train.resampled is None
    assert torch.equal(
        objective.sample_prior([0, 2], torch.Generator()), objective.train.prior_token_ids[[0, 2]].long()
    )


def test_the_plan_counts_the_autoregressive_model(images: data.ImageDataset) -> None:
    """It is there while features are computed, and leaves before training."""
    found = []
    for share in (0.0, 0.5):
        folders = [f"data.{split}={Path('data/posters') / split}" for split in ("train", "validation")]
        changes = [*folders, "model=nano", f"decoder.prior_resampled={share}"]
        recipe = config.load("recipes/decoder_lora.yaml", changes)
        (stage,) = plan.plan_stages(recipe, plan.shapes_of(images), images.captions, CPU, stage_kinds())
        found.append(stage)
    assert found[1].phases["precomputing"] > found[0].phases["precomputing"] + 10**6
    assert found[1].bytes == found[0].bytes
