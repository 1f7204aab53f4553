"""The shipped model: stock diffusers draws our picture from our codes and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint

from glmkit.generation import pipeline
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request


@pytest.mark.parametrize(("width", "height"), [(256, 256), (128, 224)])
def test_stock_draws_our_picture(width: int, height: int) -> None:
    hybrid = HybridModel.load("nano", parts=())
    one = Request("a", "a navy poster with the headline 'HELLO'", 3, height, width, steps=4, guidance=2.5)
    codes = pipeline.prior_tokens(hybrid, [one])
    (ours,) = pipeline.decode_prior(hybrid, [one], codes)
    (theirs,) = tiny_checkpoint.stock_pipeline(checkpoint.NANO)(
        prompt=one.prompt,
        height=height,
        width=width,
        num_inference_steps=one.steps,
        guidance_scale=one.guidance,
        latents=pipeline.initial_noise(hybrid, one),
        prior_token_ids=pipeline.upsampled(codes[0])[None],
    ).images
    levels = np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)
    assert np.abs(levels).max() <= 2


def test_it_fits_into_a_repository() -> None:
    files = [path for path in Path(checkpoint.NANO).rglob("*") if path.is_file()]
    assert files, "data/nano is missing"
    assert sum(path.stat().st_size for path in files) <= 40 * 2**20
    assert max(path.stat().st_size for path in files) < 16 * 2**20
