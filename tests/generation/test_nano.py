"""The shipped model: diffusers generates glmkit's image from its prior tokens and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint

from glmkit.generation.denoising import decode_prior_tokens, initial_noise, upsample_prior_tokens
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request


@pytest.mark.parametrize(("width", "height"), [(256, 256), (128, 224)])
def test_diffusers_generates_the_same_image(width: int, height: int) -> None:
    hybrid = HybridModel.load("nano", components=())
    one = Request("a", "a navy poster with the headline 'HELLO'", 3, height, width, steps=4, guidance=2.5)
    token_ids = generate_prior_tokens(hybrid, [one])
    (ours,) = decode_prior_tokens(hybrid, [one], token_ids)
    (theirs,) = tiny_checkpoint.diffusers_pipeline(checkpoint.NANO)(
        prompt=one.prompt,
        height=height,
        width=width,
        num_inference_steps=one.steps,
        guidance_scale=one.guidance,
        latents=initial_noise(hybrid, one),
        prior_token_ids=upsample_prior_tokens(token_ids[0])[None],
    ).images
    levels = np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)
    assert np.abs(levels).max() <= 2


def test_it_fits_into_a_repository() -> None:
    files = [path for path in Path(checkpoint.NANO).rglob("*") if path.is_file()]
    assert files, "data/nano is missing"
    assert sum(path.stat().st_size for path in files) <= 44 * 2**20
    assert max(path.stat().st_size for path in files) < 16 * 2**20
