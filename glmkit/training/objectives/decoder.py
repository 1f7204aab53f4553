"""The diffusion decoder (and the glyph encoder with it, if asked): flow matching on latents.

Every image is conditioned on its OWN large-grid tokens (teacher forcing), the glyph embeddings of its quoted texts,
its size, and the inference pairing of timestep and sigma; the target is `noise - latents`. An edit reads its source
through the block-causal cache. Prior, glyph text and source are dropped together for guidance. B batch, C latent
channels, h w latent rows and columns, N decoder tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glmkit.config import DecoderStage, GlyphStage
from glmkit.errors import UserError
from glmkit.generation import flow_matching as flow
from glmkit.generation.denoising import flow_config, upsample_prior_tokens
from glmkit.models.compiling import allow_shapes
from glmkit.models.decoder.condition_cache import ConditionCache
from glmkit.models.hybrid import HybridModel
from glmkit.training import features
from glmkit.training.data import ConcatDataset, Datasets, FileDataset, ImageDataset, buckets, groups
from glmkit.training.objectives import EVERY, Divisible, StageKind
from glmkit.training.objectives.glyph_embeddings import NO_TEXT, GlyphEmbeddings, Glyphs, GlyphTokens
from glmkit.training.objectives.regularization import RegularizationImages, without_adapters
from glmkit.training.objectives.spelling import OrderHead, SignHead

VALIDATION_TIMES = 8
VALIDATION_IMAGES = 64


@dataclass(frozen=True)
class Conditions:
    """What the decoder learns from, an image: latents (means, then deviations), own prior ids, those of the stretched
    image, glyphs, where text and signs stand; and which image is an edit of which other one, as in `ImageDataset`."""

    latents: features.CachedFeatures
    prior: features.CachedFeatures
    stretched: features.CachedFeatures | None
    glyphs: Glyphs
    text: features.CachedFeatures | None
    signs: features.CachedFeatures | None
    condition_images: dict[int, int]

    def means(self, indices: Sequence[int]) -> Tensor:
        """The latents B C h w, float32, without their deviations."""
        return self.latents[indices].float().chunk(2, dim=1)[0]

    @classmethod
    def of(
        cls,
        images: ImageDataset,
        hybrid: HybridModel,
        cache: features.FeatureCache,
        *,
        with_glyphs: bool,
        learning_glyphs: bool,
        with_text: bool = False,
        with_signs: bool = False,
        stretch: float = 0.0,
    ) -> Conditions:
        captions = images.captions if with_glyphs else [""] * len(images.captions)
        return cls(
            prior=features.precompute_large_tokens(hybrid, images, cache),
            stretched=features.precompute_stretched_tokens(hybrid, images, cache, stretch) if stretch else None,
            latents=features.precompute_latents(hybrid, images, cache),
            glyphs=GlyphTokens(captions) if learning_glyphs else GlyphEmbeddings(hybrid, captions, cache),
            text=features.precompute_text_masks(images, cache) if with_text else None,
            signs=features.precompute_character_labels(images, cache) if with_signs else None,
            condition_images=images.condition_images,
        )


@dataclass(frozen=True)
class Step:
    """Images of one kind on their way through the decoder. `prior` B h/4 w/4 ids; `prior_token_drop` B, True where it is
    not told; `told` B, False where nothing is; `texts`: the image whose quoted texts are told, or NO_TEXT."""

    indices: Sequence[int]
    latents: Tensor
    noise: Tensor
    times: flow.Times
    prior: Tensor
    prior_token_drop: Tensor
    told: Tensor
    texts: Sequence[int]

    @property
    def target(self) -> Tensor:
        """The velocity that there should be, B C h w."""
        return flow.velocity_target(self.latents, self.noise)

    def of(self, rows: slice) -> Step:
        """Some of the images."""
        times = flow.Times(*(face[rows] for face in self.times))
        own = (self.prior[rows], self.prior_token_drop[rows], self.told[rows], self.texts[rows])
        return Step(self.indices[rows], self.latents[rows], self.noise[rows], times, *own)


def _pixels(latents: Tensor) -> tuple[int, int]:
    """Height and width of images in pixels, from latents B C h w."""
    return 8 * latents.shape[-2], 8 * latents.shape[-1]


def weighs_text(stage: DecoderStage) -> bool:
    """Whether the loss depends on where text stands."""
    return stage.text_weight != 0 or stage.other_weight != 1


def check_text(images: ImageDataset, stage: DecoderStage) -> None:
    """UserError when the loss depends on where text stands, and nobody knows."""
    if not weighs_text(stage):
        return
    for one in images.sets if isinstance(images, ConcatDataset) else [images]:
        if one.text_mask([0], torch.device("cpu")) is None:
            place = f" in {one.where}" if isinstance(one, FileDataset) else ""
            raise UserError(
                "text_weight and other_weight need to know where text stands",
                found=f"images with neither text boxes nor masks{place}",
                fix="text_boxes or mask in the data (data.columns), or leave the weights out",
            )


def precompute(
    hybrid: HybridModel, datasets: Datasets, stage: DecoderStage, cache: features.FeatureCache
) -> tuple[Conditions, Conditions]:
    """Compute the conditions of both data sets; UserError when a loss depends on what is not known of the images."""
    images, validation = datasets
    check_text(images, stage)
    shared: dict[str, Any] = {"with_glyphs": stage.glyphs, "learning_glyphs": learns_glyphs(stage)}
    train = Conditions.of(
        images,
        hybrid,
        cache,
        **shared,
        with_text=weighs_text(stage),
        with_signs=stage.character_weight > 0,
        stretch=stage.prior_stretch,
    )
    return train, Conditions.of(validation, hybrid, cache, **shared)


def learns_glyphs(stage: DecoderStage) -> bool:
    """Tell whether what the glyph encoder gives changes from step to step."""
    return stage.train_glyph or isinstance(stage, GlyphStage)


class DecoderObjective(Divisible):
    def __init__(
        self,
        hybrid: HybridModel,
        features: tuple[Conditions, Conditions],
        datasets: Datasets,
        stage: DecoderStage,
    ) -> None:
        images, validation = datasets
        self.stage, self.device = stage, hybrid.device
        self.flow_config = flow_config(hybrid.folder)
        self.train, self.known = features
        for conditions in features:
            if isinstance(conditions.glyphs, GlyphTokens):
                conditions.glyphs.attach(hybrid.glyph)
        self.mean_weight = self._mean_weight(images, self.train.text) if self.train.text else 1.0
        self.regularization = RegularizationImages(images)
        self.validation_groups = groups(buckets(validation), 32, limit=VALIDATION_IMAGES)
        self.decoder = hybrid.decoder
        self.trained, self.signs, self.order = self._parts(hybrid)

    def _parts(self, hybrid: HybridModel) -> tuple[nn.Module, SignHead | None, OrderHead | None]:
        """What is trained, and the heads of the losses that teach spelling, which are trained with it."""
        signs = SignHead(hybrid.decoder).to(self.device) if self.stage.character_weight else None
        order = (
            OrderHead(hybrid.glyph.encoder.config.d_model).to(self.device)
            if self.stage.character_position_weight
            else None
        )
        if not self.stage.train_glyph:
            return hybrid.decoder, signs, order
        parts = {"decoder": hybrid.decoder, "glyph": hybrid.glyph.requires_grad_(True)}
        heads = {"signs": signs, "order": order}
        return nn.ModuleDict({**parts, **{name: head for name, head in heads.items() if head}}), signs, order

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        step = self._drawn(indices, generator).of(rows)
        velocity, glyph = self._velocity(self.train, step)
        loss, shown = self._weighted((velocity - step.target).square(), step.indices)
        if self.signs is not None and self.train.signs is not None:
            nats = self.signs.loss(self.train.signs[step.indices], step.told)
            loss, shown["signs"] = loss + self.stage.character_weight * nats, nats.detach()
        if self.order is not None and isinstance(self.train.glyphs, GlyphTokens):
            nats = self.order.loss(glyph, self.train.glyphs[step.texts])
            loss, shown["order"] = loss + self.stage.character_position_weight * nats, nats.detach()
        if self.stage.regularization_weight:
            reminder = self.regularization(indices, generator)
            if reminder is not indices:
                step = self._drawn(reminder, generator).of(rows)
                velocity, _ = self._velocity(self.train, step)
            with without_adapters(self.trained):
                before, _ = self._velocity(self.train, step)
            drift = (velocity - before).square().mean()
            loss, shown["drift"] = loss + self.stage.regularization_weight * drift, drift.detach()
        return loss, shown

    def _weighted(self, error: Tensor, indices: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of the squared errors B C h w, weighted by where text stands; the plain mean beside it if it is.

        Weights are relative to the mean over an epoch, not over the batch: however a batch is divided, the gradient is
        the same.
        """
        if self.train.text is None:
            return error.mean(), {}
        mean = (error * self._weights(self.train.text, indices)).mean() / self.mean_weight
        return mean, {"mse": error.detach().mean()}

    def _weights(self, text: features.CachedFeatures, indices: Sequence[int]) -> Tensor:
        """B 1 h w: how much the error at each latent position counts."""
        share = text[indices].float() / 255
        return (1 + self.stage.text_weight) * share + self.stage.other_weight * (1 - share)

    def _mean_weight(self, images: ImageDataset, text: features.CachedFeatures) -> float:
        """Over the images of an epoch. UserError when there is nothing in them that counts."""
        total = 0.0
        for own in groups(buckets(images), 64, limit=len(images.sizes)):
            repeats = torch.tensor([images.repeats[index] for index in own], dtype=torch.float32)
            total += float(self._weights(text, own).mean(dim=(1, 2, 3)).cpu() @ repeats)
        if total == 0:
            raise UserError("no image has a place whose error counts", fix="other text_weight and other_weight")
        return total / sum(images.repeats)

    def _drawn(self, indices: Sequence[int], generator: torch.Generator) -> Step:
        """Images of one kind with everything random of a training step."""
        mean, deviation = self.train.latents[indices].float().chunk(2, dim=1)
        times = flow.training_times(
            len(mean),
            *_pixels(mean),
            self.flow_config,
            logit_std=self.stage.logit_std,
            generator=generator,
            device=self.device,
        )
        noise, own = (torch.randn(mean.shape, generator=generator, device=self.device) for _ in range(2))
        prior = self._disturbed(self._prior(indices, generator), generator)
        # The drops decide which tokens are encoded, so they are drawn where no copy from the GPU is needed; by a
        # seed of their own, since on a CPU the same seed would tie them to the times.
        draws = torch.rand(2, len(mean), generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        dropped = draws[0] < self.stage.caption_dropout
        prior_token_drop = (dropped | (draws[1] < self.stage.prior_token_drop)).to(self.device, non_blocking=True)
        texts = [NO_TEXT if is_dropped else index for index, is_dropped in zip(indices, dropped.tolist(), strict=True)]
        told = ~dropped.to(self.device, non_blocking=True)
        return Step(indices, mean + deviation * own, noise, times, prior, prior_token_drop, told, texts)

    def _prior(self, indices: Sequence[int], generator: torch.Generator) -> Tensor:
        """The ids B h/4 w/4 that the images are told: half of them of the stretched images, if asked. A sampled
        prior is often a letter too wide or too narrow for its text, and the decoder must not fill it with others."""
        prior = self.train.prior[indices].long()
        if self.train.stretched is None or indices[0] in self.train.condition_images:
            return prior
        chosen = torch.rand(len(prior), 1, 1, generator=generator, device=self.device) < 0.5
        return torch.where(chosen, self.train.stretched[indices].long(), prior)

    def _disturbed(self, prior: Tensor, generator: torch.Generator) -> Tensor:
        """Some ids replaced by random codes: sampled priors are never perfect, and the decoder must forgive that."""
        if not self.stage.prior_noise:
            return prior
        replace = torch.rand(prior.shape, generator=generator, device=self.device) < self.stage.prior_noise
        codes = self.decoder.config.prior_vq_quantizer_codebook_size
        return torch.where(replace, torch.randint_like(prior, codes, generator=generator), prior)

    def _sources(self, known: Conditions, step: Step) -> ConditionCache | None:
        """What a batch of edits may read of its sources, the rows that are not told nothing, as in the unconditional
        half of guidance; None for other images. With gradients: to write them is learnt, too."""
        if step.indices[0] not in known.condition_images:
            return None
        chosen = [known.condition_images[index] for index in step.indices]
        latents = known.means(chosen)  # as generation reads them
        prior = upsample_prior_tokens(known.prior[chosen].long())
        return self.decoder.cache_condition_images([(latents, prior, _pixels(latents))]).visible_where(step.told)

    def _velocity(self, known: Conditions, step: Step) -> tuple[Tensor, Tensor]:
        """The predicted velocity B C h w, float32, and the glyph embeddings that it was told."""
        glyph, mask = known.glyphs.embeddings(step.texts)
        size = torch.tensor([_pixels(step.latents)], device=self.device, dtype=torch.float32)
        velocity = self.decoder(
            flow.noisy(step.latents, step.noise, step.times.sigma),
            glyph,
            mask,
            upsample_prior_tokens(step.prior),
            step.prior_token_drop,
            step.times.timestep,
            size.expand(len(step.latents), 2),
            torch.zeros_like(size).expand(len(step.latents), 2),
            self._sources(known, step),
        )
        return velocity.float(), glyph

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Mean squared velocity error at fixed times spread over the schedule, with fixed noise, nothing dropped; that
        of the edits among the images apart as well."""
        errors: dict[str, list[Tensor]] = {}
        for indices in self.validation_groups:
            latents, prior = self.known.means(indices), self.known.prior[indices].long()
            everything = torch.ones(len(indices), dtype=torch.bool, device=self.device)
            names = ("loss", "edit") if indices[0] in self.known.condition_images else ("loss",)
            for number, time in enumerate(np.linspace(60, 940, VALIDATION_TIMES)):
                cpu = torch.Generator().manual_seed(1000 * number + indices[0])
                noise = torch.randn(latents.shape, generator=cpu).to(self.device)
                now = torch.full((len(indices),), float(time), device=self.device)
                times = flow.pair(now, *_pixels(latents), self.flow_config)
                step = Step(indices, latents, noise, times, prior, ~everything, everything, indices)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    error = (self._velocity(self.known, step)[0] - step.target).square()
                for name in names:
                    errors.setdefault(name, []).append(error.mean(dim=(1, 2, 3)))
        return {name: torch.cat(values).mean().item() for name, values in errors.items()}

    def compile(self) -> None:
        allow_shapes()
        blocks: list[Any] = list(self.decoder.transformer_blocks)
        for block in blocks:
            block.compile(dynamic=False)
            if self.train.condition_images:  # which pass the blocks on a way of their own: `cache_condition_images`
                block.forward_with_key_value = torch.compile(block.forward_with_key_value, dynamic=False)
        self.train.glyphs.one_shape = True
        if isinstance(self.train.glyphs, GlyphTokens):
            self.train.glyphs.encoder.encoder.compile(dynamic=False)


KIND = StageKind(DecoderObjective, precompute, encoders=("semantic_vq", "vae", "glyph"), transformer="decoder")
