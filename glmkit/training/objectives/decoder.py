"""The diffusion decoder (and the glyph encoder with it, if asked): flow matching on latents (arXiv:2210.02747).

Every image is conditioned on its own large-grid prior tokens (teacher forcing), the glyph embeddings of its quoted
texts, its size, and the pairing of timestep and sigma that inference has; the target is the velocity `noise - latents`.
An edit reads its condition image through the block-causal cache. Caption dropout takes prior tokens, glyph texts and
condition image away together, for classifier-free guidance (arXiv:2207.12598).

B batch, N image tokens, C latent channels, H W latent rows and columns, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from glmkit.config import DecoderStage, GlyphStage
from glmkit.errors import UserError
from glmkit.generation import flow_matching as flow
from glmkit.generation.denoising import flow_config, upsample_prior_tokens
from glmkit.models.compiling import allow_shapes
from glmkit.models.decoder.condition_cache import ConditionCache
from glmkit.models.decoder.model import DiffusionDecoder
from glmkit.models.devices import autocast
from glmkit.models.hybrid import HybridModel
from glmkit.training import features
from glmkit.training.data import ConcatDataset, Datasets, FileDataset, ImageDataset, buckets, first_batches, glyph_texts
from glmkit.training.objectives import EVERY, Divisible, StageKind
from glmkit.training.objectives.glyph_embeddings import NO_TEXT, GlyphEmbeddings, Glyphs, GlyphTokens
from glmkit.training.objectives.regularization import RegularizationImages, without_adapters

VALIDATION_TIMES = 8
VALIDATION_IMAGES = 64
PIXELS_PER_LATENT = 8


@dataclass(frozen=True)
class DecoderFeatures:
    """Hold what the decoder learns from, precomputed for every image of a data set."""

    latents: features.CachedFeatures
    """Means, then standard deviations: 2C H W."""
    prior_token_ids: features.CachedFeatures
    """Token ids of the image's own large grid: H/4 W/4."""
    glyphs: Glyphs
    """Embeddings of the texts that captions quote."""
    text: features.CachedFeatures | None
    """How much of each latent position is text: 1 H W, 255 is all."""
    condition_images: dict[int, tuple[int, ...]]
    """The index of each edit and those of its condition images."""

    def latent_means(self, indices: Sequence[int]) -> Tensor:
        """Return latents B C H W in float32, as generation reads those of condition images."""
        return self.latents[indices].float().chunk(2, dim=1)[0]


@dataclass(frozen=True)
class DecoderInputs:
    """Images of one kind on their way through the decoder, with everything that is sampled for a training step."""

    indices: Sequence[int]
    latents: Tensor
    """B C H W."""
    noise: Tensor
    """B C H W."""
    times: flow.Times
    """Timestep and sigma, both B."""
    prior_token_ids: Tensor
    """B H/4 W/4."""
    prior_token_drop: Tensor
    """B, True where the prior tokens are dropped."""
    conditional: Tensor
    """B, False where prior tokens, glyph texts and condition image are dropped together."""
    texts: Sequence[int]
    """The index of the caption whose quoted texts each image has, or NO_TEXT."""

    @property
    def target(self) -> Tensor:
        """Return the velocity B C H W that the decoder learns to predict."""
        return flow.velocity_target(self.latents, self.noise)

    def of(self, rows: slice) -> DecoderInputs:
        """Return some of the images."""
        return DecoderInputs(
            self.indices[rows],
            self.latents[rows],
            self.noise[rows],
            flow.Times(*(values[rows] for values in self.times)),
            self.prior_token_ids[rows],
            self.prior_token_drop[rows],
            self.conditional[rows],
            self.texts[rows],
        )


@dataclass(frozen=True)
class LossContext:
    """Hold what an auxiliary loss sees of a forward pass that is just done."""

    inputs: DecoderInputs
    glyph_embeddings: Tensor
    """B T D."""


class AuxiliaryLoss(Protocol):
    """A loss beside that of flow matching, by a head that only training has."""

    name: str

    @property
    def head(self) -> nn.Module:
        """Say what is trained with the decoder."""

    def loss(self, context: LossContext) -> tuple[str, float, Tensor]:
        """Return the name under which the loss is logged, its weight, and its value."""


def precompute(
    hybrid: HybridModel, datasets: Datasets, stage: DecoderStage, cache: features.FeatureCache
) -> tuple[DecoderFeatures, DecoderFeatures]:
    """Compute the features of both data sets; UserError when a loss depends on what is not known of the images."""
    images, validation = datasets
    check_text(images, stage)
    return (
        precompute_features(hybrid, images, glyph_texts(images), stage, cache, with_text=weighs_text(stage)),
        precompute_features(hybrid, validation, glyph_texts(validation), stage, cache),
    )


def precompute_features(
    hybrid: HybridModel,
    images: ImageDataset,
    texts: Sequence[Sequence[str]],
    stage: DecoderStage,
    cache: features.FeatureCache,
    *,
    with_text: bool = False,
) -> DecoderFeatures:
    """Compute the features of one data set, whose captions have these `texts` for the glyph encoder."""
    return DecoderFeatures(
        prior_token_ids=features.precompute_large_tokens(hybrid, images, cache),
        latents=features.precompute_latents(hybrid, images, cache),
        glyphs=GlyphTokens(texts) if learns_glyphs(stage) else GlyphEmbeddings(hybrid, texts, cache),
        text=features.precompute_text_masks(images, cache) if with_text else None,
        condition_images=images.condition_images,
    )


def learns_glyphs(stage: DecoderStage) -> bool:
    """Tell whether the glyph embeddings of a caption change from step to step."""
    return stage.train_glyph or isinstance(stage, GlyphStage)


def weighs_text(stage: DecoderStage) -> bool:
    """Tell whether the loss depends on where text stands."""
    return stage.text_weight != 0 or stage.other_weight != 1


def check_text(images: ImageDataset, stage: DecoderStage) -> None:
    """Raise UserError when the loss depends on where text stands, and that is not known."""
    if not weighs_text(stage):
        return
    for dataset in images.sets if isinstance(images, ConcatDataset) else [images]:
        if dataset.text_mask([0], torch.device("cpu")) is None:
            where = f" in {dataset.where}" if isinstance(dataset, FileDataset) else ""
            raise UserError(
                "text_weight and other_weight need to know where text stands",
                found=f"images with neither text boxes nor masks{where}",
                fix="text_boxes or mask in the data (data.columns), or leave the weights out",
            )


class DecoderObjective(Divisible):
    """Predicts the velocity from noise to latents."""

    def __init__(
        self,
        hybrid: HybridModel,
        features: tuple[DecoderFeatures, DecoderFeatures],
        datasets: Datasets,
        stage: DecoderStage,
        auxiliary_losses: Sequence[AuxiliaryLoss] = (),
    ) -> None:
        images, validation = datasets
        self.stage, self.device = stage, hybrid.device
        self.flow_config = flow_config(hybrid.folder)
        self.train, self.validation = features
        for one in features:
            if isinstance(one.glyphs, GlyphTokens):
                one.glyphs.attach(hybrid.glyph)
        self.mean_weight = self._mean_weight(images, self.train.text) if self.train.text else 1.0
        self.regularization = RegularizationImages(images)
        self.validation_groups = first_batches(buckets(validation), 32, limit=VALIDATION_IMAGES)
        self.decoder, self.auxiliary_losses = hybrid.decoder, auxiliary_losses
        self.trained = self._trained(hybrid)

    def _trained(self, hybrid: HybridModel) -> nn.Module:
        if not self.stage.train_glyph:
            return hybrid.decoder
        heads = {auxiliary.name: auxiliary.head for auxiliary in self.auxiliary_losses}
        return nn.ModuleDict({"decoder": hybrid.decoder, "glyph": hybrid.glyph.requires_grad_(True), **heads})

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted velocity error with all that is added to it, and each of these apart."""
        # 1. Sample noise, times and drops; predict the velocity.
        inputs = self.sample_inputs(indices, generator).of(rows)
        velocity, glyph = self.predict_velocity(self.train, inputs)

        # 2. Flow matching: the squared error of the velocity, weighted by where text stands.
        loss, metrics = self._weighted((velocity - inputs.target).square(), inputs.indices)

        # 3. Auxiliary losses.
        for auxiliary in self.auxiliary_losses:
            name, weight, value = auxiliary.loss(LossContext(inputs, glyph))
            loss, metrics[name] = loss + weight * value, value.detach()

        # 4. Prior preservation: the distance to the velocity that the model without adapters predicts.
        if self.stage.regularization_weight:
            chosen = self.regularization(indices, generator)
            if chosen is not indices:
                inputs = self.sample_inputs(chosen, generator).of(rows)
                velocity, _ = self.predict_velocity(self.train, inputs)
            with without_adapters(self.trained):
                before, _ = self.predict_velocity(self.train, inputs)
            drift = (velocity - before).square().mean()
            loss, metrics["drift"] = loss + self.stage.regularization_weight * drift, drift.detach()
        return loss, metrics

    def _weighted(self, error: Tensor, indices: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean of the squared errors B C H W, and the plain mean beside it if they differ.

        Weights are relative to the mean over an epoch, not over the batch: however a batch is divided, the gradient is
        the same.
        """
        if self.train.text is None:
            return error.mean(), {}
        mean = (error * self._weights(self.train.text, indices)).mean() / self.mean_weight
        return mean, {"mse": error.detach().mean()}

    def _weights(self, text: features.CachedFeatures, indices: Sequence[int]) -> Tensor:
        """Return how much the error at each latent position counts, B 1 H W."""
        share = text[indices].float() / 255
        return (1 + self.stage.text_weight) * share + self.stage.other_weight * (1 - share)

    def _mean_weight(self, images: ImageDataset, text: features.CachedFeatures) -> float:
        """Return the mean weight over an epoch. UserError when nothing in the images counts."""
        total = 0.0
        for indices in first_batches(buckets(images), 64, limit=len(images.sizes)):
            repeats = torch.tensor([images.repeats[index] for index in indices], dtype=torch.float32)
            total += float(self._weights(text, indices).mean(dim=(1, 2, 3)).cpu() @ repeats)
        if total == 0:
            raise UserError("no image has a place whose error counts", fix="other text_weight and other_weight")
        return total / sum(images.repeats)

    def sample_inputs(self, indices: Sequence[int], generator: torch.Generator) -> DecoderInputs:
        """Sample latents, noise, times and drops for images of one kind."""
        distribution = self.train.latents[indices].float()
        times = flow.training_times(
            len(indices),
            *_pixels(distribution),
            self.flow_config,
            logit_std=self.stage.logit_std,
            generator=generator,
            device=self.device,
        )
        mean, _ = distribution.chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=self.device)
        latents = sample_latents(distribution, generator)
        prior_token_ids = self.sample_prior(indices, generator)
        # The drops decide which tokens are encoded, so they are sampled where no copy from the GPU is needed; by a
        # seed of their own, since on a CPU the same seed would tie them to the times.
        uniforms = torch.rand(2, len(indices), generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        dropped = uniforms[0] < self.stage.caption_dropout
        prior_token_drop = (dropped | (uniforms[1] < self.stage.prior_token_drop)).to(self.device, non_blocking=True)
        texts = [NO_TEXT if is_dropped else index for index, is_dropped in zip(indices, dropped.tolist(), strict=True)]
        conditional = ~dropped.to(self.device, non_blocking=True)
        return DecoderInputs(indices, latents, noise, times, prior_token_ids, prior_token_drop, conditional, texts)

    def sample_prior(self, indices: Sequence[int], generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return the prior tokens B H/4 W/4 of images: their own, so that nothing is random here."""
        return self.train.prior_token_ids[indices].long()

    def predict_velocity(self, known: DecoderFeatures, inputs: DecoderInputs) -> tuple[Tensor, Tensor]:
        """Run the decoder on images of a data set; see the function of that name."""
        return predict_velocity(self.decoder, known.glyphs, inputs, self._condition_cache(known, inputs))

    def _condition_cache(self, known: DecoderFeatures, inputs: DecoderInputs) -> ConditionCache | None:
        """Return what edits may read of their condition images: nothing where they are unconditional.

        With gradients: to write the cache is learnt, too.
        """
        if inputs.indices[0] not in known.condition_images:
            return None
        images = []
        for chosen in zip(*(known.condition_images[index] for index in inputs.indices), strict=True):
            latents = known.latent_means(chosen)
            prior = upsample_prior_tokens(known.prior_token_ids[chosen].long())
            images.append((latents, prior, _pixels(latents)))
        return self.decoder.cache_condition_images(images).visible_where(inputs.conditional)

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Return the mean squared velocity error of `fixed_inputs`; that of edits apart as well."""
        errors: dict[str, list[Tensor]] = {}
        for indices in self.validation_groups:
            names = ("loss", "edit") if indices[0] in self.validation.condition_images else ("loss",)
            for inputs in self.fixed_inputs(indices):
                with autocast(self.device):
                    error = (self.predict_velocity(self.validation, inputs)[0] - inputs.target).square()
                for name in names:
                    errors.setdefault(name, []).append(error.mean(dim=(1, 2, 3)))
        return {name: torch.cat(values).mean().item() for name, values in errors.items()}

    def fixed_inputs(self, indices: Sequence[int]) -> Iterator[DecoderInputs]:
        """Yield validation images at fixed times spread over the schedule, with fixed noise, nothing dropped."""
        latents = self.validation.latent_means(indices)
        prior_token_ids = self.validation.prior_token_ids[indices].long()
        everything = torch.ones(len(indices), dtype=torch.bool, device=self.device)
        for number, time in enumerate(np.linspace(60, 940, VALIDATION_TIMES)):
            cpu = torch.Generator().manual_seed(1000 * number + indices[0])
            noise = torch.randn(latents.shape, generator=cpu).to(self.device)
            now = torch.full((len(indices),), float(time), device=self.device)
            times = flow.times_at(now, *_pixels(latents), self.flow_config)
            yield DecoderInputs(indices, latents, noise, times, prior_token_ids, ~everything, everything, indices)

    def compile(self) -> None:
        """Compile each block, and the glyph encoder where it learns."""
        allow_shapes()
        blocks: list[Any] = list(self.decoder.transformer_blocks)
        for block in blocks:
            block.compile(dynamic=False)
            if self.train.condition_images:  # which pass the blocks on a way of their own: `cache_condition_images`
                block.forward_with_key_value = torch.compile(block.forward_with_key_value, dynamic=False)
        self.train.glyphs.one_shape = True
        if isinstance(self.train.glyphs, GlyphTokens):
            self.train.glyphs.encoder.encoder.compile(dynamic=False)


def predict_velocity(
    decoder: DiffusionDecoder, glyphs: Glyphs, inputs: DecoderInputs, condition_images: ConditionCache | None = None
) -> tuple[Tensor, Tensor]:
    """Run the decoder; returns the velocity B C H W in float32, and the glyph embeddings B T D that it read."""
    glyph, mask = glyphs.embeddings(inputs.texts)
    read = glyphs.pack(inputs.texts, glyph, mask)
    size = torch.tensor([_pixels(inputs.latents)], device=inputs.latents.device, dtype=torch.float32)
    velocity: Tensor = decoder(
        flow.add_noise(inputs.latents, inputs.noise, inputs.times.sigma),
        *read,
        upsample_prior_tokens(inputs.prior_token_ids),
        inputs.prior_token_drop,
        inputs.times.timestep,
        size.expand(len(inputs.latents), 2),
        torch.zeros_like(size).expand(len(inputs.latents), 2),
        condition_images,
    )
    return velocity.float(), glyph


def sample_latents(distribution: Tensor, generator: torch.Generator) -> Tensor:
    """Sample latents B C H W from their means and standard deviations B 2C H W."""
    mean, deviation = distribution.chunk(2, dim=1)
    return mean + deviation * torch.randn(mean.shape, generator=generator, device=mean.device)


def _pixels(latents: Tensor) -> tuple[int, int]:
    """Return height and width of images in pixels, from latents B C H W."""
    return PIXELS_PER_LATENT * latents.shape[-2], PIXELS_PER_LATENT * latents.shape[-1]


def objective(
    hybrid: HybridModel, features: tuple[DecoderFeatures, DecoderFeatures], datasets: Datasets, stage: DecoderStage
) -> DecoderObjective:
    """Return the objective of a stage: single images, or pairs."""
    from glmkit.training.objectives.preference import DecoderPreference

    kind = DecoderObjective if stage.dpo is None else DecoderPreference
    return kind(hybrid, features, datasets, stage)


KIND = StageKind(objective, precompute, encoders=("semantic_vq", "vae", "glyph"), transformer="decoder")
