"""Condition images of edits: read, and encoded once for both halves of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glmkit.generation.sequence import TOKEN_PIXELS
from glmkit.inputs.images import read_image
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq.model import prepare_image
from glmkit.records import Request
from glmkit.shortcuts import EXACT


@dataclass(frozen=True)
class ConditionImage:
    """An image to edit, encoded: token ids h w for both halves, normalised latents 1 C H W for the decoder."""

    token_ids: Tensor
    latents: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width in pixels at which the decoder sees it."""
        return self.token_ids.shape[0] * TOKEN_PIXELS, self.token_ids.shape[1] * TOKEN_PIXELS


@torch.inference_mode()
def encode_condition_images(hybrid: HybridModel, requests: Sequence[Request]) -> list[list[ConditionImage]]:
    """Read and encode the condition images of every request; UserError for one that cannot be used."""
    edits = any(request.condition_images for request in requests)
    if edits:
        hybrid.unload_except("semantic_vq", "vae")
    encoded = [
        [encode_condition_image(hybrid, read_image(path)) for path in request.condition_images] for request in requests
    ]
    if edits and hybrid.precision != EXACT["precision"] and "semantic_vq" not in hybrid.kept:
        hybrid.unload("semantic_vq")  # whose room the decoder's keys of condition images take, on a GPU that has little
    return encoded


@torch.inference_mode()
def encode_condition_image(hybrid: HybridModel, image: Image.Image) -> ConditionImage:
    """Tokenise the halved image, and encode latents at twice that size, so that both grids agree whatever its size.

    The published pipeline encodes the latents at the image's own size, which is the same when its sides are
    multiples of 32 within the processor's bounds, and fails otherwise.
    """
    settings = hybrid.condition_image_settings
    height, width = settings.halved_size(image.height, image.width)
    halved = prepare_image(image, (height, width), settings.mean, settings.std)
    token_ids = hybrid.semantic_vq.encode(halved[None].to(hybrid.device, hybrid.dtype))[0]
    if image.size != (2 * width, 2 * height):
        image = image.resize((2 * width, 2 * height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return ConditionImage(token_ids, hybrid.vae.encode(pixels.to(hybrid.device, hybrid.dtype)))
