"""The second half: from prior tokens to pixels.

Shapes: B batch, C latent channels, h w rows and columns of prior tokens (32 pixels each), N = 2h 2w decoder tokens,
H W rows and columns of latents (8 pixels each).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from glmkit.generation import flow_matching
from glmkit.generation.condition_images import ConditionImage, encode_condition_images
from glmkit.generation.decoding import check_finite
from glmkit.generation.parallel_denoising import ConditionImageInputs, Conditions, DenoisingBatch
from glmkit.generation.prior_tokens import DENOISING, Progress, progress_of
from glmkit.inputs.quotes import rendered_texts
from glmkit.models.checkpoint import published
from glmkit.models.checkpoint.configs import read_config
from glmkit.models.cpu_threads import parallel_map
from glmkit.models.decoder.denoiser import Denoiser
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

LATENT_PIXELS = 8
PIXELS_TOGETHER = 1024 * 1024  # that the VAE of a GPU makes at a time, of images that are no larger


def flow_config(folder: Path) -> flow_matching.FlowConfig:
    """Return the noise schedule of a model folder."""
    return _flow_config((folder / "scheduler" / "scheduler_config.json").resolve())


@lru_cache(maxsize=4)
def _flow_config(path: Path) -> flow_matching.FlowConfig:
    return flow_matching.FlowConfig.from_dict(read_config(path, published.SCHEDULER))


def decode_prior_tokens(
    hybrid: HybridModel,
    requests: Sequence[Request],
    prior_token_ids: Sequence[Tensor],
    noise: Tensor | None = None,
    condition_images: Sequence[Sequence[ConditionImage]] | None = None,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """Make the images of one batch from its prior tokens h w; `noise` B C H W replaces that of the requests' seeds."""
    latents = denoise(hybrid, requests, prior_token_ids, noise, condition_images, progress)
    return decode_images(hybrid, latents, requests[0].vae_tiling)


@torch.inference_mode()
def denoise(
    hybrid: HybridModel,
    requests: Sequence[Request],
    prior_token_ids: Sequence[Tensor],
    noise: Tensor | None = None,
    condition_images: Sequence[Sequence[ConditionImage]] | None = None,
    progress: Progress | None = None,
    predicted: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Denoise one batch under its prior tokens h w: normalised latents B C H W, float32; `predicted` as `integrate`."""
    first = requests[0]
    # 1. Encode the condition images, unless that is done.
    if condition_images is None:
        condition_images = encode_condition_images(hybrid, requests)
    hybrid.unload_except("glyph", "decoder")
    # 2. Start from noise at the highest level of the schedule.
    if noise is None:
        noise = torch.cat([initial_noise(hybrid, request) for request in requests])
    schedule = flow_matching.schedule(first.height, first.width, first.steps, flow_config(hybrid.folder))
    # 3. Encode the conditions, and the empty ones of classifier-free guidance.
    velocity = _guided_velocity(hybrid, requests, prior_token_ids, condition_images, schedule.timesteps)
    # 4. Follow the velocity step by step to latents without noise.
    each_step = progress_of(progress, DENOISING)
    latents = flow_matching.integrate(velocity, noise.to(hybrid.device), schedule, each_step, predicted)
    check_finite(latents, "the decoder")
    return latents


def initial_noise(hybrid: HybridModel, request: Request) -> Tensor:
    """Sample normal noise 1 C H W, float32 on the CPU, from the request's own generator."""
    shape = (1, hybrid.decoder.config.in_channels, request.height // LATENT_PIXELS, request.width // LATENT_PIXELS)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(request.seed))


def upsample_prior_tokens(ids: Tensor) -> Tensor:
    """Repeat prior tokens ... h w for each decoder token, ... N = 2h 2w, row by row."""
    return ids.repeat_interleave(2, -2).repeat_interleave(2, -1).flatten(-2)


def _guided_velocity(
    hybrid: HybridModel,
    requests: Sequence[Request],
    prior_token_ids: Sequence[Tensor],
    condition_images: Sequence[Sequence[ConditionImage]],
    timesteps: Tensor,
) -> Callable[[Tensor, int], Tensor]:
    """Return the velocity of classifier-free guidance: unconditional + guidance (conditional - unconditional).

    Unconditional: prior tokens dropped, an empty glyph text, no condition images. At guidance 1 or less, and behind the
    guided steps, only the conditional velocity is computed (Ho and Salimans 2022, arXiv:2207.12598).
    """
    first, batch = requests[0], len(requests)
    guided_steps = flow_matching.guided_steps(first.steps, first.guidance, first.guided)
    guided = guided_steps > 0
    # The glyph encoder reads the empty text beside the prompts, as one batch.
    texts = [rendered_texts(one.prompt, one.texts) for one in requests] + [[]] * guided
    glyphs = [glyph[mask] for glyph, mask in zip(*hybrid.glyph.encode_texts(texts), strict=True)]
    conditional = tuple(
        Conditions(glyph, upsample_prior_tokens(ids), _condition_inputs(hybrid, images))
        for glyph, ids, images in zip(glyphs[:batch], prior_token_ids, condition_images, strict=True)
    )
    all_conditions = DenoisingBatch(
        conditional,
        Conditions(glyphs[-1]) if guided else None,
        guided_steps,
        timesteps,
        flow_matching.full_steps(first.steps, first.reuse),
        size=(first.height, first.width),
        grid=(2 * prior_token_ids[0].shape[0], 2 * prior_token_ids[0].shape[1]),
        shape=(batch, hybrid.decoder.config.in_channels, first.height // LATENT_PIXELS, first.width // LATENT_PIXELS),
    )
    partners = hybrid.denoising_partners
    velocities: Callable[[Tensor, int, bool], tuple[Tensor, Tensor | None]]
    if partners is not None and partners.serves(guided):
        velocities = partial(partners.velocities, partners.begin(all_conditions, hybrid))
    else:
        velocities = partial(_velocities, all_conditions.denoiser(hybrid, (True, False)))

    def velocity(latents: Tensor, step: int) -> Tensor:
        guided = step < guided_steps
        with_conditions, without = velocities(latents.to(hybrid.dtype), step, guided)
        if without is None:
            return with_conditions.float()
        return without.float() + first.guidance * (with_conditions.float() - without.float())

    return velocity


def _velocities(denoiser: Denoiser, latents: Tensor, step: int, guided: bool) -> tuple[Tensor, Tensor | None]:
    """Return conditional velocities B C H W and, of a guided step, the unconditional ones."""
    if not guided:
        return denoiser(latents, step), None
    with_conditions, without = denoiser(torch.cat([latents, latents]), step).chunk(2)
    return with_conditions, without


def _condition_inputs(hybrid: HybridModel, images: Sequence[ConditionImage]) -> tuple[ConditionImageInputs, ...]:
    return tuple(
        (image.latents.to(hybrid.dtype), upsample_prior_tokens(image.token_ids)[None], image.size) for image in images
    )


def decode_images(hybrid: HybridModel, latents: Tensor, tiled: bool = False) -> list[Image.Image]:
    """Decode normalised latents B C H W to images, large ones in tiles where `tiled`."""
    hybrid.unload_except("vae")
    # One at a time: the VAE's activations at full size are the largest of all, and nothing is gained by batching. A GPU
    # takes small images together, up to the pixels of a large one.
    height, width = (LATENT_PIXELS * side for side in latents.shape[-2:])
    together = max(1, PIXELS_TOGETHER // (height * width)) if latents.is_cuda and not tiled else 1

    def images(some: Tensor) -> list[Image.Image]:
        return [to_image(pixels) for pixels in decode_latents(hybrid, some, tiled)]

    return [image for some in parallel_map(images, latents.split(together), hybrid.device) for image in some]


@torch.inference_mode()
def decode_latents(hybrid: HybridModel, latents: Tensor, tiled: bool = False) -> Tensor:
    """Decode normalised latents B C H W to pixels B 3 8H 8W, float32, about [-1, 1]; `tiled` as `Vae.decode` has it."""
    return hybrid.vae.decode(latents, tiled).float()


def to_image(pixels: Tensor) -> Image.Image:
    """Make an image from pixels 3 H W in [-1, 1]; values outside are clamped, UserError for what is no number."""
    check_finite(pixels, "the VAE")
    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
