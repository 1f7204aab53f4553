"""The diffusion decoder (and the glyph encoder with it, if asked): flow matching on latents.

Every picture is conditioned on its OWN large-grid tokens (teacher forcing), the glyph embeddings of its quoted texts,
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

from glmkit.config import DecoderStage
from glmkit.generation import flow, pipeline
from glmkit.generation.pipeline import upsampled
from glmkit.models.compiling import allow_shapes
from glmkit.models.decoder import SourceCache
from glmkit.models.hybrid import HybridModel
from glmkit.training import cache
from glmkit.training.data import Pictures, buckets, groups
from glmkit.training.objectives import Objective
from glmkit.training.objectives.glyphs import NO_TEXT, GlyphEmbeddings, Glyphs, GlyphTokens
from glmkit.training.objectives.spelling import LetterHead, OrderHead

HELD_OUT_TIMES = 8
HELD_OUT_PICTURES = 64


@dataclass(frozen=True)
class Conditions:
    """What the decoder learns from, a picture: latents (means, then deviations), own prior ids, glyphs, where text and
    letters stand; and which picture is an edit of which other one, as in `Pictures`."""

    latents: cache.Kept
    prior: cache.Kept
    glyphs: Glyphs
    text: cache.Kept | None
    letters: cache.Kept | None
    sources: dict[int, int]

    @classmethod
    def of(
        cls,
        pictures: Pictures,
        hybrid: HybridModel,
        keeper: cache.Keeper,
        *,
        with_glyphs: bool,
        learning_glyphs: bool,
        with_text: bool = False,
        with_letters: bool = False,
    ) -> Conditions:
        captions = pictures.captions if with_glyphs else [""] * len(pictures.captions)
        return cls(
            prior=cache.large_cache(hybrid, pictures, keeper),
            latents=cache.latent_cache(hybrid, pictures, keeper),
            glyphs=GlyphTokens(hybrid, captions) if learning_glyphs else GlyphEmbeddings(hybrid, captions, keeper),
            text=cache.text_cache(pictures, keeper) if with_text else None,
            letters=cache.letter_cache(pictures, keeper) if with_letters else None,
            sources=pictures.sources,
        )


class DecoderObjective(Objective):
    def __init__(
        self,
        hybrid: HybridModel,
        keeper: cache.Keeper,
        pictures: Pictures,
        held_out: Pictures,
        stage: DecoderStage,
    ) -> None:
        self.stage, self.device = stage, keeper.device
        self.flow_config = pipeline.flow_config(hybrid.folder)
        told: dict[str, Any] = {"with_glyphs": stage.glyphs, "learning_glyphs": self._learns_glyphs(stage)}
        self.train = Conditions.of(
            pictures,
            hybrid,
            keeper,
            **told,
            with_text=stage.text_weight > 0,
            with_letters=stage.letter_weight > 0,
        )
        self.known = Conditions.of(held_out, hybrid, keeper, **told)
        self.held_out_groups = groups(buckets(held_out), 32, limit=HELD_OUT_PICTURES)
        hybrid.release("vae", "semantic_vq", *([] if self._learns_glyphs(stage) else ["glyph"]))
        self.decoder = hybrid.decoder
        self.trained, self.letters, self.order = self._parts(hybrid)

    @staticmethod
    def _learns_glyphs(stage: DecoderStage) -> bool:
        """Whether the glyph encoder has to be at hand, since what it gives changes from step to step."""
        return stage.train_glyph

    def _parts(self, hybrid: HybridModel) -> tuple[nn.Module, LetterHead | None, OrderHead | None]:
        """What is trained, and the heads of the losses that teach spelling, which are trained with it."""
        letters = LetterHead(hybrid.decoder).to(self.device) if self.stage.letter_weight else None
        order = OrderHead(hybrid.glyph.encoder.config.d_model).to(self.device) if self.stage.order_weight else None
        if not self.stage.train_glyph:
            return hybrid.decoder, letters, order
        parts = {"decoder": hybrid.decoder, "glyph": hybrid.glyph.requires_grad_(True)}
        heads = {"letters": letters, "order": order}
        return nn.ModuleDict({**parts, **{name: head for name, head in heads.items() if head}}), letters, order

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        mean, deviation = self.train.latents[indices].float().chunk(2, dim=1)
        height, width = (8 * side for side in mean.shape[-2:])
        timestep, sigma = flow.training_times(
            len(mean),
            height,
            width,
            self.flow_config,
            logit_std=self.stage.logit_std,
            generator=generator,
            device=self.device,
        )
        noise, own = (torch.randn(mean.shape, generator=generator, device=self.device) for _ in range(2))
        latents = mean + deviation * own
        prior = self._disturbed(self.train.prior[indices].long(), generator)
        # The drops decide which tokens are encoded, so they are drawn where no copy from the GPU is needed; by a
        # seed of their own, since on a CPU the same seed would tie them to the times.
        draws = torch.rand(2, len(latents), generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        dropped = draws[0] < self.stage.drop
        keep = (~dropped & (draws[1] >= self.stage.prior_drop)).to(self.device, non_blocking=True)
        texts = [NO_TEXT if is_dropped else index for index, is_dropped in zip(indices, dropped.tolist(), strict=True)]
        told = ~dropped.to(self.device, non_blocking=True)
        sources = self._sources(self.train, indices, told)
        glyph = self.train.glyphs.embeddings(texts)
        error = self._error(latents, noise, timestep, sigma, prior, keep, glyph, sources)
        loss, shown = error.mean(), {}
        if self.train.text is not None:
            weight = 1 + self.stage.text_weight * self.train.text[indices].float() / 255
            loss, shown["mse"] = (error * weight).mean() / weight.mean(), error.detach().mean()
        if self.letters is not None and self.train.letters is not None:
            nats = self.letters.loss(self.train.letters[indices], told)
            loss, shown["letters"] = loss + self.stage.letter_weight * nats, nats.detach()
        if self.order is not None and isinstance(self.train.glyphs, GlyphTokens):
            nats = self.order.loss(glyph[0], self.train.glyphs[texts])
            loss, shown["order"] = loss + self.stage.order_weight * nats, nats.detach()
        return loss, shown

    def _disturbed(self, prior: Tensor, generator: torch.Generator) -> Tensor:
        """Some ids replaced by random codes: sampled priors are never perfect, and the decoder must forgive that."""
        if not self.stage.prior_noise:
            return prior
        replace = torch.rand(prior.shape, generator=generator, device=self.device) < self.stage.prior_noise
        codes = self.decoder.config.prior_vq_quantizer_codebook_size
        return torch.where(replace, torch.randint_like(prior, codes, generator=generator), prior)

    def _sources(self, known: Conditions, indices: Sequence[int], told: Tensor) -> SourceCache | None:
        """What a batch of edits may read of its sources, the rows where `told` (B) is False nothing, as in the
        unconditional half of guidance; None for other pictures. With gradients: to write them is learnt, too."""
        if indices[0] not in known.sources:
            return None
        chosen = [known.sources[index] for index in indices]
        latents = known.latents[chosen].float().chunk(2, dim=1)[0]  # as generation reads them
        height, width = (8 * side for side in latents.shape[-2:])
        prior = upsampled(known.prior[chosen].long())
        return self.decoder.write_sources([(latents, prior, (height, width))]).only(told)

    def _error(
        self,
        latents: Tensor,
        noise: Tensor,
        timestep: Tensor,
        sigma: Tensor,
        prior: Tensor,
        keep: Tensor,
        glyph: tuple[Tensor, Tensor],
        sources: SourceCache | None,
    ) -> Tensor:
        """Squared error of the predicted velocity, B C h w. `prior` is B h/4 w/4 ids; `glyph` comes with its mask."""
        size = torch.tensor([[8 * side for side in latents.shape[-2:]]], device=self.device, dtype=torch.float32)
        velocity = self.decoder(
            flow.noisy(latents, noise, sigma),
            *glyph,
            upsampled(prior),
            keep,
            timestep,
            size.expand(len(latents), 2),
            torch.zeros_like(size).expand(len(latents), 2),
            sources,
        )
        return (velocity.float() - flow.velocity_target(latents, noise)).square()

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Mean squared velocity error at fixed times spread over the schedule, with fixed noise, nothing dropped; that
        of the edits among the pictures apart as well."""
        errors: dict[str, list[Tensor]] = {}
        for indices in self.held_out_groups:
            latents, prior = self.known.latents[indices].float().chunk(2, dim=1)[0], self.known.prior[indices].long()
            height, width = (8 * side for side in latents.shape[-2:])
            keep = torch.ones(len(indices), dtype=torch.bool, device=self.device)
            names = ("loss", "edit") if indices[0] in self.known.sources else ("loss",)
            for number, time in enumerate(np.linspace(60, 940, HELD_OUT_TIMES)):
                cpu = torch.Generator().manual_seed(1000 * number + indices[0])
                noise = torch.randn(latents.shape, generator=cpu).to(self.device)
                now = torch.full((len(indices),), float(time), device=self.device)
                times = flow.pair(now, height, width, self.flow_config)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    sources = self._sources(self.known, indices, keep)
                    glyph = self.known.glyphs.embeddings(indices)
                    error = self._error(latents, noise, times.timestep, times.sigma, prior, keep, glyph, sources)
                for name in names:
                    errors.setdefault(name, []).append(error.mean(dim=(1, 2, 3)))
        return {name: torch.cat(values).mean().item() for name, values in errors.items()}

    def compile(self) -> None:
        allow_shapes()
        blocks: list[Any] = list(self.decoder.transformer_blocks)
        for block in blocks:
            block.compile(dynamic=False)
            if self.train.sources:  # which go through the blocks on their own way, see `write_sources`
                block.with_keys = torch.compile(block.with_keys, dynamic=False)
        if isinstance(self.train.glyphs, GlyphTokens):
            self.train.glyphs.encoder.encoder.compile(dynamic=False)
