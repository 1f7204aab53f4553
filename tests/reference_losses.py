"""The objectives of both generators, and their losses written out over reference models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tiny_checkpoint
import torch
from torch import Tensor

from glmkit.config import DecoderStage
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import training_sequence
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import PretrainAutoregressiveStage
from glmkit.pretraining.pretrain import pretraining_kinds
from glmkit.training import data, features
from glmkit.training.objectives import stage_kinds
from glmkit.training.objectives.autoregressive import AutoregressiveObjective
from glmkit.training.objectives.decoder import DecoderObjective

CPU = torch.device("cpu")
STAGE: dict[str, Any] = {"steps": 1, "global_batch_size": 2, "learning_rate": 1e-3}
SIZE = 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def autoregressive(hybrid: HybridModel, images: Any, **changes: Any) -> AutoregressiveObjective:
    stage = PretrainAutoregressiveStage(**STAGE, **changes)
    objective = pretraining_kinds()["autoregressive"].build(hybrid, images, stage, features.FeatureCache(CPU))
    assert isinstance(objective, AutoregressiveObjective)
    return objective


def reference_nats(
    hybrid: HybridModel, images: data.ImageDataset, index: int, with_preview: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """log-likelihoods of one image's preview, large grid and end, each token on its own."""
    pixels = images.pixels([index], CPU)
    preview, large = (
        features.preview_token_ids(hybrid.semantic_vq, pixels)[0],
        features.large_token_ids(hybrid.semantic_vq, pixels)[0],
    )
    if not with_preview:
        preview = preview[:0]
    prompt = prompt_tokenizer(hybrid.folder).text_to_image(images.captions[index], *images.sizes[index])
    grids_in_order = [tokens for tokens in (preview, large) if tokens.numel()]
    sequence = training_sequence(prompt, grids_in_order, hybrid.autoregressive.config)
    model = tiny_checkpoint.diffusers_pipeline(hybrid.folder).vision_language_encoder
    hidden = model.model.language_model(
        input_ids=sequence.ids_T[None], position_ids=sequence.positions_3T[:, None]
    ).last_hidden_state
    nats = -model.lm_head(hidden)[0].double().log_softmax(dim=-1)
    at = torch.arange(len(prompt) - 1, len(sequence.ids_T) - 1)  # each token predicts its successor
    written = torch.cat(
        [preview.flatten(), large.flatten(), torch.tensor([hybrid.autoregressive.config.image_end_token_id])]
    )
    assert torch.equal(sequence.ids_T[at + 1], written)
    of_preview, of_large, of_end = nats[at, written].split([preview.numel(), large.numel(), 1])
    return of_preview, of_large, of_end


def decoder(hybrid: HybridModel, images: Any, **changes: Any) -> DecoderObjective:
    stage = DecoderStage(**{**STAGE, "caption_dropout": 0.0, **changes})
    objective = stage_kinds()["decoder"].build(hybrid, images, stage, features.FeatureCache(CPU))
    assert isinstance(objective, DecoderObjective)
    return objective


def reference_error(
    hybrid: HybridModel, images: data.ImageDataset, index: int, noise: Tensor, time: float, drop: bool = False
) -> Tensor:
    """Squared velocity error C h w of one image at one time in 1..1000, alone through diffusers.

    `noise` 2 C h w: what is mixed into the latents, and what they deviate by from their mean, in standard deviations.
    """
    noise, own = noise
    reference = tiny_checkpoint.diffusers_pipeline(hybrid.folder)
    pixels, (height, width) = images.pixels([index], CPU), images.sizes[index]
    posterior = reference.vae.encode(pixels).latent_dist
    raw = posterior.mode() + posterior.std * own
    statistics = (reference.vae.config.latents_mean, reference.vae.config.latents_std)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
    clean = (raw - mean) / std
    tokens = (height // 16) * (width // 16)
    strength = 0.75 * math.sqrt(tokens / 256) + 0.25
    sigma = strength / (strength + 1000 / time - 1)
    token_ids = features.large_token_ids(hybrid.semantic_vq, pixels)
    prior = torch.from_numpy(np.kron(token_ids[0].numpy(), np.ones((2, 2), dtype=np.int64))).flatten()[None]
    predicted = reference.transformer(
        hidden_states=(1 - sigma) * clean + sigma * noise[None],
        encoder_hidden_states=reference._get_glyph_embeds(["" if drop else images.captions[index]], device=CPU),
        prior_token_id=prior,
        prior_token_drop=torch.full_like(prior, drop, dtype=torch.bool),
        timestep=torch.tensor([time - 1]),
        target_size=torch.tensor([[height, width]], dtype=torch.float32),
        crop_coords=torch.zeros(1, 2),
    ).sample
    error: Tensor = (predicted - (noise[None] - clean))[0].square()
    return error


def sample_times_and_noise(
    seed: int, count: int, height: int, width: int, std: float = 1.0
) -> tuple[list[float], Tensor]:
    """The times in 1..1000 of the step whose generator has this seed, and the noise of `reference_error` B 2 C h w."""
    generator = seeded(seed)
    times = 1 + 999 * torch.sigmoid(std * torch.randn(count, generator=generator))
    noise = [torch.randn(count, 4, height // 8, width // 8, generator=generator) for _ in range(2)]
    return times.tolist(), torch.stack(noise, dim=1)
