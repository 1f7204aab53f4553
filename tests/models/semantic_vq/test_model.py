"""Token ids equal transformers' from the image on: size, resize, normalisation, features, nearest code."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny_language as tiny
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.models.semantic_vq.model import SemanticTokenizer, halved_size, prepare_image

MIN_PIXELS, MAX_PIXELS = 96 * 96, 256 * 256
SIZES = [(96, 96), (90, 133), (64, 200), (48, 192), (200, 51), (500, 230), (17, 17)]
HALF = (0.5, 0.5, 0.5)


@cache
def reference_processor() -> Any:
    from transformers import GlmImageImageProcessor

    return GlmImageImageProcessor(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        patch_size=16,
        merge_size=1,
        temporal_patch_size=1,
        image_mean=list(HALF),
        image_std=list(HALF),
    )


def make_image(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Smooth shapes with some noise: pure noise would make every patch alike after a resize."""
    rng = np.random.default_rng(height * width)
    channels = len(Image.new(mode, (1, 1)).getbands())
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 4), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse).astype(int)[..., :channels] + rng.integers(-20, 20, (height, width, channels))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).squeeze(), mode)


def test_sizes_equal_reference_processor() -> None:
    from transformers.models.glm_image.image_processing_glm_image import smart_resize

    rng = random.Random(0)
    bounds = [(512**2, 2048**2), (256**2, 1024**2), (96**2, 128**2), (56 * 56, 28 * 28 * 1280)]
    for _ in range(3000):
        height = rng.randint(16, 3000)
        width = rng.randint(max(16, -(-height // 4)), min(5000, 4 * height))
        low, high = rng.choice(bounds)
        assert halved_size(height, width, low, high) == smart_resize(height, width, 16, low, high), (height, width, low)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_ids_from_pixels_equal_reference(height: int, width: int) -> None:
    image, model = make_image(height, width), tiny.reference_model()
    inputs = reference_processor()(images=[image], return_tensors="pt")
    with torch.no_grad():
        (expected_Dhw,) = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
        expected_N = model.get_image_tokens([expected_Dhw])
    pixels_CHW = prepare_image(image, halved_size(height, width, MIN_PIXELS, MAX_PIXELS), HALF, HALF)
    torch.testing.assert_close(tiny.patches(pixels_CHW), inputs["pixel_values"], atol=1e-6, rtol=0)
    with torch.no_grad():
        features_1Dhw = tiny.our_tokenizer().features(pixels_CHW[None])
    torch.testing.assert_close(features_1Dhw[0], expected_Dhw, atol=1e-4, rtol=0)
    ids_1hw = tiny.our_tokenizer().encode(pixels_CHW[None])
    assert len(expected_N.unique()) > 1
    assert torch.equal(ids_1hw[0].flatten(), expected_N)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_modes_become_rgb_as_in_reference(mode: str) -> None:
    image = make_image(128, 96, mode)
    inputs = reference_processor()(images=[image], return_tensors="pt")
    pixels_CHW = prepare_image(image, halved_size(128, 96, MIN_PIXELS, MAX_PIXELS), HALF, HALF)
    one_level = 2 / 255 + 1e-6
    torch.testing.assert_close(tiny.patches(pixels_CHW), inputs["pixel_values"], atol=one_level, rtol=0)


def test_batch_equals_single_images() -> None:
    pixels_BCHW = torch.randn(3, 3, 48, 80, generator=tiny.generator(0))
    together = tiny.our_tokenizer().encode(pixels_BCHW)
    alone = torch.cat([tiny.our_tokenizer().encode(part[None]) for part in pixels_BCHW])
    assert torch.equal(together, alone)
    assert together.shape == (3, 3, 5)


def test_quantisation_and_losses_equal_reference() -> None:
    """The reference's loss is commitment + 0.25 codebook; its features carry a straight-through gradient."""
    features_BDhw = torch.randn(2, 32, 3, 5, generator=tiny.generator(1), requires_grad=True)
    expected = tiny.reference_model().model.vqmodel.encode(features_BDhw)
    ours = tiny.our_tokenizer().quantize(features_BDhw)
    torch.testing.assert_close(ours.features, expected.quantized_last_hidden_state, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        ours.commitment_loss + 0.25 * ours.codebook_loss, expected.embedding_loss, atol=1e-6, rtol=0
    )
    assert torch.equal(ours.token_ids.flatten(), expected.image_tokens)
    weight = torch.randn(ours.features.shape, generator=tiny.generator(2))
    reference_gradient = torch.autograd.grad((expected.quantized_last_hidden_state * weight).sum(), features_BDhw)[0]
    our_gradient = torch.autograd.grad((ours.features * weight).sum(), features_BDhw)[0]
    assert our_gradient.abs().max() > 0
    torch.testing.assert_close(our_gradient, reference_gradient, atol=1e-5, rtol=0)


def test_each_loss_moves_its_own_side() -> None:
    tokenizer = SemanticTokenizer(tiny.our_tokenizer().config)
    ours = tokenizer.quantize(torch.randn(1, 32, 4, 4))
    codes, conv = tokenizer.vqmodel.quantize.embedding.weight, tokenizer.vqmodel.quant_conv.weight
    for loss, moved, still in ((ours.commitment_loss, conv, codes), (ours.codebook_loss, codes, conv)):
        gradients = torch.autograd.grad(loss, (moved, still), retain_graph=True, allow_unused=True)
        assert gradients[0] is not None
        assert gradients[0].abs().sum() > 0
        assert gradients[1] is None or gradients[1].abs().sum() == 0


def test_autocast_does_not_change_the_nearest_code() -> None:
    """In bfloat16 the nearest codes tie; the search must stay in float32."""
    features_BDhw = torch.randn(1, 32, 16, 16, generator=tiny.generator(3))
    expected = tiny.our_tokenizer().vqmodel.quantize(features_BDhw[:, :16]).token_ids
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tiny.our_tokenizer().vqmodel.quantize(features_BDhw[:, :16]).token_ids, expected)


@pytest.mark.parametrize(("size", "word"), [((100, 401), "times"), ((15, 40), "at least")])
def test_sources_that_the_encoder_refuses(size: tuple[int, int], word: str) -> None:
    with pytest.raises(UserError, match=word):
        halved_size(*size, MIN_PIXELS, MAX_PIXELS)


def test_extreme_images_are_refused_exactly_where_reference_refuses() -> None:
    from transformers.models.glm_image.image_processing_glm_image import smart_resize

    assert halved_size(100, 400, MIN_PIXELS, MAX_PIXELS) == smart_resize(100, 400, 16, MIN_PIXELS, MAX_PIXELS)
    with pytest.raises(ValueError, match="aspect"):
        smart_resize(100, 401, 16, MIN_PIXELS, MAX_PIXELS)
