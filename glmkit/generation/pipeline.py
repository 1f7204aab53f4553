"""From requests to images: prompt -> codes (autoregressive) -> latents (diffusion decoder) -> pixels (VAE).

One request is one prompt, one seed, one size, one image: its random numbers come from its own seed, drawn on the CPU,
and padding is masked, so the same request gives the same image alone and in any batch. Nothing here touches the
global random state. The rules of conditioning are those of `GlmImagePipeline` (diffusers 0.42).

Shapes: B requests, C latent channels, h w rows and columns of codes (32 pixels each), N = 2h 2w decoder tokens,
H W rows and columns of latents (8 pixels each).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.generation.condition_images import Source, encode_condition_image, encode_condition_images
from glmkit.generation.denoising import (
    decode_images,
    decode_latents,
    decode_prior,
    denoise_prior,
    flow_config,
    initial_noise,
    to_image,
    upsampled,
)
from glmkit.generation.prior_tokens import Progress, prior_tokens, prompt_tokenizer, sampling_of
from glmkit.generation.sequence import MAX_SOURCES, grids
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

__all__ = [
    "FAILURES",
    "Outcome",
    "Progress",
    "Source",
    "attempt",
    "check",
    "decode_latents",
    "decode_images",
    "decode_prior",
    "denoise_prior",
    "draw",
    "encode_condition_image",
    "encode_condition_images",
    "flow_config",
    "generate",
    "initial_noise",
    "prior_tokens",
    "prompt_tokenizer",
    "settings_of",
    "to_image",
    "upsampled",
]


# What may go wrong with one request and leave the others as they are.
FAILURES = (UserError, RuntimeError, ValueError, OSError)


@dataclass(frozen=True)
class Outcome:
    """What became of a request: an image, or the reason why there is none. `seconds` is its share of its batch."""

    request: Request
    image: Image.Image | None
    error: Exception | None
    seconds: float


def check(request: Request) -> None:
    """UserError for a request that no model can draw. Source images are not opened here."""
    if not request.prompt.strip():
        raise UserError(
            "the prompt is empty", fix="say what to draw, for example \"a red poster with the word 'HELLO'\""
        )
    grids(request.height, request.width)
    if not 1 <= request.steps <= 1000:
        raise UserError("the number of steps must be 1 to 1000", found=request.steps, fix="--steps 30")
    if not (math.isfinite(request.guidance) and request.guidance >= 0):
        raise UserError("guidance must be a number of at least 0", found=request.guidance, fix="--guidance 1.5")
    if not 0 <= request.seed < 2**63:
        raise UserError("a seed must be a whole number from 0 to 2^63 - 1", found=request.seed, fix="--seed 0")
    if len(request.condition_images) > MAX_SOURCES:
        raise UserError(f"an edit takes 1 to {MAX_SOURCES} source images", found=f"{len(request.condition_images)}")
    sampling_of(request)


def generate(
    hybrid: HybridModel, requests: Sequence[Request], batch_size: int = 1, progress: Progress | None = None
) -> Iterator[tuple[Request, Image.Image]]:
    """Draw every request; the first one that fails raises. Results come grouped by size, not in the given order."""
    for outcome in attempt(hybrid, requests, batch_size, progress):
        if outcome.image is None:
            raise outcome.error or AssertionError("no image and no error")
        yield outcome.request, outcome.image


def attempt(
    hybrid: HybridModel, requests: Sequence[Request], batch_size: int = 1, progress: Progress | None = None
) -> Iterator[Outcome]:
    """Draw every request, in batches of one size and setting; one that fails becomes an outcome with its error.

    A batch that fails is tried again one by one, so that only the request at fault is lost.
    """
    for batch in _batches(requests, batch_size):
        started = time.perf_counter()
        try:
            images = draw(hybrid, batch, progress)
        except FAILURES as error:
            if len(batch) > 1:
                yield from attempt(hybrid, batch, 1, progress)
            else:
                yield Outcome(batch[0], None, error, time.perf_counter() - started)
            continue
        seconds = (time.perf_counter() - started) / len(batch)
        yield from (Outcome(request, image, None, seconds) for request, image in zip(batch, images, strict=True))


def settings_of(request: Request) -> tuple[object, ...]:
    """What the requests of one batch have in common."""
    settings = (request.height, request.width, bool(request.condition_images), request.steps, request.guidance)
    return (*settings, request.temperature, request.top_p, request.top_k)


def _batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[Request]]:
    groups: dict[tuple[object, ...], list[Request]] = {}
    for request in requests:
        groups.setdefault(settings_of(request), []).append(request)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


@torch.inference_mode()
def draw(hybrid: HybridModel, requests: Sequence[Request], progress: Progress | None = None) -> list[Image.Image]:
    """The images of one batch, whose requests share size, steps, guidance and sampling."""
    for request in requests:
        check(request)
    sources = encode_condition_images(hybrid, requests)
    priors = prior_tokens(hybrid, requests, sources, progress)
    return decode_prior(hybrid, requests, priors, sources=sources, progress=progress)
