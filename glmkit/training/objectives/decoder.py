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
from glmkit.generation import flow
from glmkit.generation.pipeline import upsampled
from glmkit.models.compiling import allow_shapes
from glmkit.models.decoder import DiffusionDecoder, SourceCache
from glmkit.models.glyph import GlyphEncoder, quoted_spans
from glmkit.models.semantic_vq import SemanticTokenizer
from glmkit.models.vae import Vae
from glmkit.training import cache
from glmkit.training.data import Pictures, buckets, groups
from glmkit.training.objectives import Objective
from glmkit.training.objectives.spelling import LetterHead, OrderHead

HELD_OUT_TIMES = 8
HELD_OUT_PICTURES = 64


class GlyphTokens:
    """The glyph tokens of every caption's quoted texts, on the CPU, with those of the empty text behind them."""

    def __init__(self, glyph: GlyphEncoder, captions: Sequence[str]) -> None:
        self._ids = glyph.token_ids([*map(quoted_spans, captions), []])

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        """B S T int16 of the captions `indices`; -1 is no text. T is a multiple of 16: few shapes to compile."""
        ids = self._ids[indices]
        lengths = (ids >= 0).sum(axis=-1).max(axis=0)
        ids = ids[:, : np.count_nonzero(lengths), : lengths.max()]
        return torch.from_numpy(np.pad(ids, ((0, 0), (0, 0), (0, -ids.shape[-1] % 16)), constant_values=-1))


@dataclass(frozen=True)
class Conditions:
    """What the decoder learns from, a picture: latents, own prior ids, glyph tokens, where text stands; and which
    picture is an edit of which other one, as in `Pictures`."""

    latents: cache.PerPicture
    prior: cache.PerPicture
    glyphs: GlyphTokens
    text: cache.PerPicture | None
    letters: cache.PerPicture | None
    sources: dict[int, int]

    @classmethod
    def of(
        cls,
        pictures: Pictures,
        vae: Vae,
        semantic_vq: SemanticTokenizer,
        glyph: GlyphEncoder,
        device: torch.device,
        *,
        with_glyphs: bool,
        with_text: bool = False,
        with_letters: bool = False,
    ) -> Conditions:
        return cls(
            cache.latent_cache(vae, pictures, device),
            cache.large_cache(semantic_vq, pictures, device),
            GlyphTokens(glyph, pictures.captions if with_glyphs else [""] * len(pictures.captions)),
            cache.text_cache(pictures, device) if with_text else None,
            cache.letter_cache(pictures, device) if with_letters else None,
            pictures.sources,
        )


class DecoderObjective(Objective):
    def __init__(
        self,
        decoder: DiffusionDecoder,
        glyph: GlyphEncoder,
        vae: Vae,
        semantic_vq: SemanticTokenizer,
        flow_config: flow.FlowConfig,
        pictures: Pictures,
        held_out: Pictures,
        stage: DecoderStage,
        device: torch.device,
    ) -> None:
        self.decoder, self.glyph, self.flow_config = decoder, glyph, flow_config
        self.stage, self.device = stage, device
        glyph.requires_grad_(stage.train_glyph)
        self.trained: nn.Module = nn.ModuleDict({"decoder": decoder, "glyph": glyph}) if stage.train_glyph else decoder
        self.letters = LetterHead(decoder).to(device) if stage.letter_weight else None
        self.order = OrderHead(glyph.encoder.config.d_model).to(device) if stage.order_weight else None
        if isinstance(self.trained, nn.ModuleDict):
            heads = {"letters": self.letters, "order": self.order}
            self.trained.update({name: head for name, head in heads.items() if head is not None})
        self.codes = semantic_vq.config.num_embeddings
        parts = (vae, semantic_vq, glyph, device)
        self.train = Conditions.of(
            pictures,
            *parts,
            with_glyphs=stage.glyphs,
            with_text=stage.text_weight > 0,
            with_letters=stage.letter_weight > 0,
        )
        self.known = Conditions.of(held_out, *parts, with_glyphs=stage.glyphs)
        self.held_out_groups = groups(buckets(held_out), 32, limit=HELD_OUT_PICTURES)

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        latents = self.train.latents[indices].float()
        height, width = (8 * side for side in latents.shape[-2:])
        timestep, sigma = flow.training_times(
            len(latents),
            height,
            width,
            self.flow_config,
            logit_std=self.stage.logit_std,
            generator=generator,
            device=self.device,
        )
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        prior = self._disturbed(self.train.prior[indices].long(), generator)
        # The drops decide which tokens are encoded, so they are drawn where no copy from the GPU is needed; by a
        # seed of their own, since on a CPU the same seed would tie them to the times.
        draws = torch.rand(2, len(latents), generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        dropped = draws[0] < self.stage.drop
        keep = (~dropped & (draws[1] >= self.stage.prior_drop)).to(self.device, non_blocking=True)
        glyphs = self.train.glyphs[np.where(dropped, -1, indices)].to(self.device, non_blocking=True)
        told = ~dropped.to(self.device, non_blocking=True)
        sources = self._sources(self.train, indices, told)
        glyph, glyph_mask = self.glyph.from_token_ids(glyphs)
        error = self._error(latents, noise, timestep, sigma, prior, keep, (glyph, glyph_mask), sources)
        loss, shown = error.mean(), {}
        if self.train.text is not None:
            weight = 1 + self.stage.text_weight * self.train.text[indices].float() / 255
            loss, shown["mse"] = (error * weight).mean() / weight.mean(), error.detach().mean()
        if self.letters is not None and self.train.letters is not None:
            nats = self.letters.loss(self.train.letters[indices], told)
            loss, shown["letters"] = loss + self.stage.letter_weight * nats, nats.detach()
        if self.order is not None:
            nats = self.order.loss(glyph, glyphs)
            loss, shown["order"] = loss + self.stage.order_weight * nats, nats.detach()
        return loss, shown

    def _disturbed(self, prior: Tensor, generator: torch.Generator) -> Tensor:
        """Some ids replaced by random codes: sampled priors are never perfect, and the decoder must forgive that."""
        if not self.stage.prior_noise:
            return prior
        replace = torch.rand(prior.shape, generator=generator, device=self.device) < self.stage.prior_noise
        return torch.where(replace, torch.randint_like(prior, self.codes, generator=generator), prior)

    def _sources(self, known: Conditions, indices: Sequence[int], told: Tensor) -> SourceCache | None:
        """What a batch of edits may read of its sources, the rows where `told` (B) is False nothing, as in the
        unconditional half of guidance; None for other pictures. With gradients: to write them is learnt, too."""
        if indices[0] not in known.sources:
            return None
        chosen = [known.sources[index] for index in indices]
        latents = known.latents[chosen].float()
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
            latents, prior = self.known.latents[indices].float(), self.known.prior[indices].long()
            height, width = (8 * side for side in latents.shape[-2:])
            keep = torch.ones(len(indices), dtype=torch.bool, device=self.device)
            glyphs = self.known.glyphs[np.asarray(indices)].to(self.device)
            names = ("loss", "edit") if indices[0] in self.known.sources else ("loss",)
            for number, time in enumerate(np.linspace(60, 940, HELD_OUT_TIMES)):
                cpu = torch.Generator().manual_seed(1000 * number + indices[0])
                noise = torch.randn(latents.shape, generator=cpu).to(self.device)
                now = torch.full((len(indices),), float(time), device=self.device)
                times = flow.pair(now, height, width, self.flow_config)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    sources = self._sources(self.known, indices, keep)
                    glyph = self.glyph.from_token_ids(glyphs)
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
        if self.stage.train_glyph:
            self.glyph.encoder.compile(dynamic=False)
