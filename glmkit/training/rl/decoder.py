"""The decoder learns from rewards by DiffusionNFT: groups of images of one prompt that differ in their noise alone.

The AR model, which stays as it is, lays out a group once: its images have the same prior tokens.

B batch, N noise levels of each image, C latent channels, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from glmkit.config import DecoderStage
from glmkit.config.rl import DecoderRl
from glmkit.generation import flow_matching as flow
from glmkit.generation.denoising import decode_images, denoise, flow_config
from glmkit.generation.prior_tokens import generate_grids
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request
from glmkit.training.context import StageContext
from glmkit.training.data import glyph_texts
from glmkit.training.features import FeatureCache
from glmkit.training.objectives import EVERY
from glmkit.training.objectives.decoder import DecoderInputs, predict_velocity
from glmkit.training.objectives.glyph_embeddings import NO_TEXT, GlyphEmbeddings
from glmkit.training.objectives.regularization import without_adapters
from glmkit.training.optimizers import Averaged
from glmkit.training.rl.advantages import BOUND
from glmkit.training.rl.nft import goodness, nft_loss
from glmkit.training.rl.objective import RewardObjective, shared_request
from glmkit.training.rl.prompts import PromptDataset
from glmkit.training.rl.rounds import Candidate


@dataclass(frozen=True)
class GeneratedLatents:
    """The clean latents C H W of an image, the prior tokens h w that it was generated under, and its prompt."""

    latents: Tensor
    prior_token_ids: Tensor
    prompt: int


def precompute(
    hybrid: HybridModel, datasets: tuple[PromptDataset, PromptDataset], _: DecoderStage, cache: FeatureCache
) -> GlyphEmbeddings:
    """Embed the texts of every prompt."""
    return GlyphEmbeddings(hybrid, glyph_texts(datasets[0]), cache)


class DecoderRewardObjective(RewardObjective[GeneratedLatents, DecoderRl]):
    """Moves the velocity towards better images, and away from worse ones."""

    def __init__(
        self,
        hybrid: HybridModel,
        glyphs: GlyphEmbeddings,
        datasets: tuple[PromptDataset, PromptDataset],
        stage: DecoderStage,
        context: StageContext,
    ) -> None:
        assert stage.rl is not None
        super().__init__(hybrid, datasets, stage, stage.rl, context)
        self.glyphs, self.caption_dropout, self.logit_std = glyphs, stage.caption_dropout, stage.logit_std
        self.flow_config = flow_config(hybrid.folder)
        self.parameters = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        self.old: Averaged | None = None  # the weights that generate, from the first round on
        self._prior_tokens: dict[Request, Tensor] = {}

    def begin_round(self, number: int) -> None:
        """Let the weights that generate follow those that learn."""
        self._prior_tokens.clear()
        if self.old is None:
            self.old = Averaged(self.parameters, 0)
            return
        growth = self.rl.old_decay_growth * max(0, number - self.rl.old_decay_start)
        self.old.follow(min(growth, self.rl.old_decay))

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Have the weights that generate in place."""
        assert self.old is not None
        self.old.swap()
        try:
            yield
        finally:
            self.old.swap()

    def generate(self, candidates: Sequence[Candidate]) -> list[tuple[Image.Image, GeneratedLatents]]:
        """Generate images, each from noise by its own seed, under the prior tokens of its group."""
        requests = [candidate.request for candidate in candidates]
        shared = [shared_request(candidate) for candidate in candidates]
        if missing := [one for one in dict.fromkeys(shared) if one not in self._prior_tokens]:
            grids = generate_grids(self.hybrid, missing, recorded=True)
            self._prior_tokens |= {one: of_image[-1] for one, of_image in zip(missing, grids, strict=True)}
        prior = [self._prior_tokens[one] for one in shared]
        with self.computing():
            latents = denoise(self.hybrid, requests, prior)
        images = decode_images(self.hybrid, latents)
        # Copies, since autograd takes no tensors of inference mode.
        learnt = [
            GeneratedLatents(latent.clone(), ids.clone(), candidate.prompt)
            for latent, ids, candidate in zip(latents, prior, candidates, strict=True)
        ]
        return list(zip(images, learnt, strict=True))

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of DiffusionNFT with the distance from the model without adapters, and what shows it."""
        # 1. Every image at several noise levels, with fresh noise.
        inputs = self._sample_inputs(indices, generator, rows)
        noisy = flow.add_noise(inputs.latents, inputs.noise, inputs.times.sigma)

        # 2. The velocities of the model that generated, unless it is the one that learns; of that one; and of the one
        #    without adapters. Weights are exchanged in place, before there are gradients.
        is_current = self.is_first_update and self.rl.old_decay == 0
        old = None if is_current else self._old_velocity(inputs)
        velocity = self._velocity(inputs)
        with without_adapters(self.trained):
            base = self._velocity(inputs)

        # 3. Towards better images, away from worse ones; where conditions are dropped, only the distance counts.
        old = velocity.detach() if old is None else old
        advantages = self.advantages_of(indices[rows]).repeat_interleave(self.rl.times_per_image)
        losses = nft_loss(
            velocity, old, noisy, inputs.latents, inputs.times.sigma, goodness(advantages, BOUND), self.rl.beta
        )
        drift = (velocity - base).square().mean()
        loss = BOUND * (losses * inputs.conditional).mean() + self.rl.kl_weight * drift
        error = (velocity.detach() - inputs.target).square().mean()
        round_metrics = self.metrics if self.is_first_update else {}
        return loss, {"drift": drift.detach(), "velocity_error": error, **round_metrics}

    def _sample_inputs(self, indices: Sequence[int], generator: torch.Generator, rows: slice) -> DecoderInputs:
        """Sample times, noise and drops for all images, as if this process learnt all; return those of `rows`."""
        learnt = [self.learnt[position] for position in indices[rows]]
        count, times = len(indices), self.rl.times_per_image
        latents = torch.stack([one.latents for one in learnt]).repeat_interleave(times, dim=0)
        shape, height, width = latents.shape[1:], *self.prompts.sizes[learnt[0].prompt]
        every = flow.training_times(
            count * times,
            height,
            width,
            self.flow_config,
            logit_std=self.logit_std,
            generator=generator,
            device=self.device,
        )
        noise = torch.randn(count, times, *shape, generator=generator, device=self.device)[rows].flatten(0, 1)
        uniforms = torch.rand(count, times, generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        dropped = (uniforms[rows] < self.caption_dropout).flatten()
        prompts = [one.prompt for one in learnt for _ in range(times)]
        return DecoderInputs(
            prompts,
            latents,
            noise,
            flow.Times(*(values.view(count, times)[rows].flatten() for values in every)),
            torch.stack([one.prior_token_ids for one in learnt]).repeat_interleave(times, dim=0),
            dropped.to(self.device),
            ~dropped.to(self.device),
            [NO_TEXT if drop else prompt for prompt, drop in zip(prompts, dropped.tolist(), strict=True)],
        )

    def _velocity(self, inputs: DecoderInputs) -> Tensor:
        return predict_velocity(self.trained, self.glyphs, inputs)[0]

    @torch.no_grad()
    def _old_velocity(self, inputs: DecoderInputs) -> Tensor:
        with self.generating():
            return self._velocity(inputs)

    def state(self) -> dict[str, Any]:
        """Return what a run needs to go on beside its weights: those that generate, too."""
        return {**super().state(), "old": None if self.old is None else self.old.shadow}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned. ValueError for anything else."""
        super().load_state(state)
        if state["old"] is not None:
            self.old = Averaged(self.parameters, 0)
            for value, saved in zip(self.old.shadow, state["old"], strict=True):
                value.copy_(saved)
