"""The second half: from codes to pixels.

Shapes: B batch, C latent channels, h w rows and columns of codes (32 pixels each), N = 2h 2w decoder tokens,
H W rows and columns of latents (8 pixels each).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from glmkit.files import read_json
from glmkit.generation import flow_matching as flow
from glmkit.generation.condition_images import Source, encode_condition_images
from glmkit.generation.prior_tokens import Progress, of_stage
from glmkit.models.cpu_threads import parallel_map
from glmkit.models.decoder.denoiser import Denoiser, DenoiserSample, cache_condition_images
from glmkit.models.decoder.model import ConditionCache
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request


@lru_cache(maxsize=4)
def flow_config(folder: Path) -> flow.FlowConfig:
    """The noise schedule of a model folder."""
    return flow.FlowConfig.from_dict(read_json(folder / "scheduler" / "scheduler_config.json"))


def decode_prior(
    hybrid: HybridModel,
    requests: Sequence[Request],
    priors: Sequence[Tensor],
    noise: Tensor | None = None,
    sources: Sequence[Sequence[Source]] | None = None,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """Images of one batch from its codes h w; `noise` B C H W replaces that of the requests' seeds."""
    latents = denoise_prior(hybrid, requests, priors, noise, sources, progress)
    return decode_images(hybrid, latents)


def decode_images(hybrid: HybridModel, latents: Tensor) -> list[Image.Image]:
    """Images of normalised latents B C H W."""
    hybrid.unload_except("vae")
    # One at a time: the decoder's activations at full size are the largest of all, and nothing is gained by batching.
    return parallel_map(lambda row: to_image(decode_latents(hybrid, row[None])[0]), list(latents), hybrid.device)


@torch.inference_mode()
def decode_latents(hybrid: HybridModel, latents: Tensor) -> Tensor:
    """Pixels B 3 8H 8W, about [-1, 1], of normalised latents B C H W."""
    return hybrid.vae.decode(latents).float()


def to_image(pixels: Tensor) -> Image.Image:
    """An image from pixels 3 H W in [-1, 1]; values outside are clamped."""
    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


@torch.inference_mode()
def denoise_prior(
    hybrid: HybridModel,
    requests: Sequence[Request],
    priors: Sequence[Tensor],
    noise: Tensor | None = None,
    sources: Sequence[Sequence[Source]] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Normalised latents B C H W, float32, of one batch from its codes."""
    first = requests[0]
    sources = encode_condition_images(hybrid, requests) if sources is None else sources
    hybrid.unload_except("glyph", "decoder")
    if noise is None:
        noise = torch.cat([initial_noise(hybrid, request) for request in requests])
    plan = flow.schedule(first.height, first.width, first.steps, flow_config(hybrid.folder))
    velocity = _velocity(hybrid, requests, priors, sources, plan.timesteps)
    return flow.denoise(velocity, noise.to(hybrid.device), plan, of_stage(progress, "denoising"))


def initial_noise(hybrid: HybridModel, request: Request) -> Tensor:
    """Normal noise 1 C H W, float32 on the CPU, from the request's own generator."""
    shape = (1, hybrid.decoder.config.in_channels, request.height // 8, request.width // 8)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(request.seed))


def upsampled(codes: Tensor) -> Tensor:
    """Codes ... h w -> one code for each decoder token, ... N = 2h 2w, row by row."""
    return codes.repeat_interleave(2, -2).repeat_interleave(2, -1).flatten(-2)


def _velocity(
    hybrid: HybridModel,
    requests: Sequence[Request],
    priors: Sequence[Tensor],
    sources: Sequence[Sequence[Source]],
    timesteps: Tensor,
) -> Callable[[Tensor, int], Tensor]:
    """The guided velocity: unconditional + guidance (conditional - unconditional).

    Unconditional means: no prior, an empty glyph text, no sources. At guidance 1 or less only the conditional one runs.
    """
    first, count = requests[0], len(requests)
    guided = first.guidance > 1
    texts = [request.prompt for request in requests] + [""] * guided
    glyphs = [glyph[mask] for glyph, mask in zip(*hybrid.glyph(texts), strict=True)]
    rows = [
        DenoiserSample(glyph, upsampled(codes), _write(hybrid, own))
        for glyph, codes, own in zip(glyphs[:count], priors, sources, strict=True)
    ]
    unconditional = [DenoiserSample(glyphs[-1], None)] * (count * guided)
    grid = (2 * priors[0].shape[0], 2 * priors[0].shape[1])
    size = (first.height, first.width)
    denoiser = Denoiser(hybrid.decoder, [*rows, *unconditional], timesteps, size, grid, hybrid.compiled)

    def velocity(latents: Tensor, step: int) -> Tensor:
        latents = latents.to(hybrid.dtype)
        if not guided:
            return denoiser(latents, step).float()
        with_all, without = denoiser(torch.cat([latents, latents]), step).float().chunk(2)
        return without + first.guidance * (with_all - without)

    return velocity


def _write(hybrid: HybridModel, sources: Sequence[Source]) -> ConditionCache | None:
    if not sources:
        return None
    given = [(source.latents.to(hybrid.dtype), upsampled(source.codes)[None], source.size) for source in sources]
    return cache_condition_images(hybrid.decoder, given, hybrid.compiled)
