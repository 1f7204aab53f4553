"""From requests to images: prompt -> prior tokens (AR model) -> latents (diffusion decoder) -> pixels (VAE).

One request is one prompt, one seed, one size, one image: its random numbers come from its own seed, sampled on the CPU,
and padding is masked, so the same request gives the same image alone and in any batch. Nothing here touches the
global random state. The rules of conditioning are those of `GlmImagePipeline` (diffusers 0.42).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from glmkit.distributed.together import is_lost
from glmkit.errors import GenerationError
from glmkit.generation.condition_images import encode_condition_images
from glmkit.generation.denoising import decode_images, denoise
from glmkit.generation.prior_tokens import Progress, generate_prior_tokens
from glmkit.generation.requests import check_request
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request


@torch.inference_mode()
def generate_batch(
    hybrid: HybridModel, requests: Sequence[Request], progress: Progress | None = None
) -> list[Image.Image]:
    """Generate the images of one batch, whose requests share size, steps, guidance and sampling.

    Raises UserError for a request that cannot be served.
    """
    for request in requests:
        check_request(request)
    # 1. Encode the condition images of edits once, for both halves.
    condition_images = encode_condition_images(hybrid, requests)
    # 2. Generate the prior tokens, which lay the image out.
    prior_token_ids = generate_prior_tokens(hybrid, requests, condition_images, progress)
    # 3. Denoise latents under them.
    latents = denoise(hybrid, requests, prior_token_ids, condition_images=condition_images, progress=progress)
    # 4. Decode the latents to pixels.
    return decode_images(hybrid, latents, requests[0].vae_tiling)


def generate_one(hybrid: HybridModel, request: Request, progress: Progress | None = None) -> Image.Image:
    """Generate the image of one request; GenerationError, whatever goes wrong with it.

    The error of an exchange with another process, which this process cannot do without, goes on as it is.
    """
    try:
        (image,) = generate_batch(hybrid, [request], progress)
    except Exception as error:
        if is_lost(error):
            raise
        raise GenerationError.of(error) from error
    return image
