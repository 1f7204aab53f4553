"""The diffusion decoder (and the glyph encoder with it, if asked): flow matching on latents.

Every picture is conditioned on its OWN large-grid tokens (teacher forcing), the glyph embeddings of its quoted texts,
its size, and the inference pairing of timestep and sigma; the target is `noise - latents`. Prior and glyph text are
dropped together for guidance. B batch, C latent channels, h w latent rows and columns, N decoder tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.config import DecoderStage
from glmkit.generation import flow
from glmkit.generation.pipeline import upsampled
from glmkit.models.decoder import DiffusionDecoder
from glmkit.models.glyph import GlyphEncoder, quoted_spans
from glmkit.models.semantic_vq import SemanticTokenizer
from glmkit.models.vae import Vae
from glmkit.training import cache
from glmkit.training.data import Pictures, groups
from glmkit.training.objectives import Objective

HELD_OUT_TIMES = 8
HELD_OUT_PICTURES = 64


@dataclass(frozen=True)
class Conditions:
    """What the decoder learns from, a picture: latents, own prior ids, quoted texts, and where text stands."""

    latents: cache.PerPicture
    prior: cache.PerPicture
    spans: list[list[str]]
    text: cache.PerPicture | None

    @classmethod
    def of(
        cls, pictures: Pictures, vae: Vae, semantic_vq: SemanticTokenizer, device: torch.device, with_text: bool
    ) -> Conditions:
        return cls(
            cache.latent_cache(vae, pictures, device),
            cache.large_cache(semantic_vq, pictures, device),
            [quoted_spans(caption) for caption in pictures.captions],
            cache.text_cache(pictures, device) if with_text else None,
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
        self.codes = semantic_vq.config.num_embeddings
        self.train = Conditions.of(pictures, vae, semantic_vq, device, stage.text_weight > 0)
        self.known = Conditions.of(held_out, vae, semantic_vq, device, False)
        self.held_out_groups = groups(held_out.sizes, 32, limit=HELD_OUT_PICTURES)

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
        # The drops decide which strings are encoded, so they are drawn where no copy from the GPU is needed; by a
        # seed of their own, since on a CPU the same seed would tie them to the times.
        draws = torch.rand(2, len(latents), generator=torch.Generator().manual_seed(generator.initial_seed() ^ 1))
        dropped = draws[0] < self.stage.drop
        keep = ~dropped & (draws[1] >= self.stage.prior_drop)
        spans = [[] if gone else self.train.spans[index] for index, gone in zip(indices, dropped.tolist(), strict=True)]
        error = self._error(latents, noise, timestep, sigma, prior, keep.to(self.device, non_blocking=True), spans)
        if self.train.text is None:
            return error.mean(), {}
        weight = 1 + self.stage.text_weight * self.train.text[indices].float() / 255
        return (error * weight).mean() / weight.mean(), {"mse": error.detach().mean()}

    def _disturbed(self, prior: Tensor, generator: torch.Generator) -> Tensor:
        """Some ids replaced by random codes: sampled priors are never perfect, and the decoder must forgive that."""
        if not self.stage.prior_noise:
            return prior
        replace = torch.rand(prior.shape, generator=generator, device=self.device) < self.stage.prior_noise
        return torch.where(replace, torch.randint_like(prior, self.codes, generator=generator), prior)

    def _error(
        self,
        latents: Tensor,
        noise: Tensor,
        timestep: Tensor,
        sigma: Tensor,
        prior: Tensor,
        keep: Tensor,
        spans: Sequence[list[str]],
    ) -> Tensor:
        """Squared error of the predicted velocity, B C h w. `prior` is B h/4 w/4 large-grid ids."""
        glyph, glyph_mask = self._padded(*self.glyph.from_spans(spans))
        size = torch.tensor([[8 * side for side in latents.shape[-2:]]], device=self.device, dtype=torch.float32)
        velocity = self.decoder(
            flow.noisy(latents, noise, sigma),
            glyph,
            glyph_mask,
            upsampled(prior),
            keep,
            timestep,
            size.expand(len(latents), 2),
            torch.zeros_like(size).expand(len(latents), 2),
        )
        return (velocity.float() - flow.velocity_target(latents, noise)).square()

    def _padded(self, glyph: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Padded on the left to a multiple of 16 tokens: few shapes to compile, and aligned attention masks."""
        more = -glyph.shape[1] % 16
        return F.pad(glyph, (0, 0, more, 0)), F.pad(mask, (more, 0))

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Mean squared velocity error at fixed times spread over the schedule, with fixed noise, nothing dropped."""
        total, count = 0.0, 0
        for indices in self.held_out_groups:
            latents, prior = self.known.latents[indices].float(), self.known.prior[indices].long()
            height, width = (8 * side for side in latents.shape[-2:])
            keep = torch.ones(len(indices), dtype=torch.bool, device=self.device)
            spans = [self.known.spans[index] for index in indices]
            for number, time in enumerate(np.linspace(60, 940, HELD_OUT_TIMES)):
                cpu = torch.Generator().manual_seed(1000 * number + indices[0])
                noise = torch.randn(latents.shape, generator=cpu).to(self.device)
                now = torch.full((len(indices),), float(time), device=self.device)
                times = flow.pair(now, height, width, self.flow_config)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    error = self._error(latents, noise, times.timestep, times.sigma, prior, keep, spans)
                total += error.mean(dim=(1, 2, 3)).sum().item()
                count += len(indices)
        return {"loss": total / count}

    def compile(self) -> None:
        for block in self.decoder.transformer_blocks:
            block.compile(dynamic=False)
