"""Whole images against diffusers, and the contract of a request: the same image alone or in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoint
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.generation.condition_images import encode_condition_image, encode_condition_images
from glmkit.generation.denoising import decode_prior_tokens, denoise, initial_noise, upsample_prior_tokens
from glmkit.generation.pipeline import generate_batch
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.generation.requests import check_request
from glmkit.inputs.images import read_image
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

PROMPTS = ("a red poster with 'HELLO'", 'a green sky, “ONE” and "TWO" written over the sea', "no text at all")


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return HybridModel.load(tiny_model)


def request(number: int = 0, **changes: object) -> Request:
    plain = Request(str(number), PROMPTS[number % 3], seed=number, height=128, width=96, steps=3)
    return replace(plain, **changes)  # type: ignore[arg-type]


def random_token_ids(height: int, width: int, seed: int = 0) -> torch.Tensor:
    shape = (height // 32, width // 32)
    return torch.randint(tiny_checkpoint.CODES, shape, generator=torch.Generator().manual_seed(seed))


def make_image(path: Path, width: int, height: int, seed: int = 0) -> str:
    """A smooth random image file."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return str(path)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 256), (224, 64)])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_image_equals_reference(hybrid: HybridModel, height: int, width: int, prompt: str) -> None:
    """From injected tokens and noise, float32: latents within 1e-4 and the image within one level of 255."""
    one = request(prompt=prompt, height=height, width=width, steps=4, guidance=2.5)
    token_ids, noise = random_token_ids(height, width), initial_noise(hybrid, one)
    reference = tiny_checkpoint.diffusers_pipeline(hybrid.folder)
    arguments = {
        "prompt": prompt,
        "height": height,
        "width": width,
        "num_inference_steps": 4,
        "guidance_scale": 2.5,
        "latents": noise,
        "prior_token_ids": upsample_prior_tokens(token_ids)[None],
    }
    theirs = reference(**arguments, output_type="latent").images
    ours = denoise(hybrid, [one], [token_ids])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    (image,) = decode_prior_tokens(hybrid, [one], [token_ids], noise)
    levels = np.asarray(image).astype(int) - np.asarray(reference(**arguments).images[0]).astype(int)
    assert np.abs(levels).max() <= 1


@pytest.mark.parametrize("sizes", [[(128, 160)], [(128, 128), (256, 128), (160, 192)]])
def test_edit_equals_reference(hybrid: HybridModel, tmp_path: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """diffusers' editing raises before it generates, but its decoder runs from tokens of target and conditions."""
    paths = tuple(make_image(tmp_path / f"{i}.png", *size, seed=i) for i, size in enumerate(sizes))
    one = request(height=128, width=96, condition_images=paths, guidance=2.0)
    (sources,) = encode_condition_images(hybrid, [one])
    token_ids = random_token_ids(128, 96)
    theirs = tiny_checkpoint.diffusers_pipeline(hybrid.folder)(
        prompt=one.prompt,
        image=[Image.open(path) for path in paths],
        height=128,
        width=96,
        num_inference_steps=3,
        guidance_scale=2.0,
        latents=initial_noise(hybrid, one),
        prior_token_ids=upsample_prior_tokens(token_ids)[None],
        prior_token_image_ids=[torch.cat([upsample_prior_tokens(source.token_ids) for source in sources])],
        source_image_grid_thw=[
            torch.tensor([[1, 2 * s.token_ids.shape[0], 2 * s.token_ids.shape[1]] for s in sources])
        ],
        output_type="latent",
    ).images
    ours = denoise(hybrid, [one], [token_ids], condition_images=[sources])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    unedited = denoise(hybrid, [replace(one, condition_images=())], [token_ids])
    assert (ours - unedited).abs().max() > 1e-3


@pytest.mark.parametrize(("width", "height"), [(128, 128), (300, 170), (64, 48), (900, 640)])
def test_condition_tokens_equal_reference(hybrid: HybridModel, tmp_path: Path, width: int, height: int) -> None:
    """Codes by transformers' own processor, features and quantiser; latents of the same grid whatever the size."""
    path = make_image(tmp_path / "a.png", width, height)
    reference = tiny_checkpoint.diffusers_pipeline(hybrid.folder)
    inputs = reference.processor.image_processor([Image.open(path)], return_tensors="pt")
    features = reference.vision_language_encoder.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    theirs = reference.vision_language_encoder.get_image_tokens(features.pooler_output, inputs["image_grid_thw"])
    ours = encode_condition_image(hybrid, read_image(path))
    assert tuple(ours.token_ids.shape) == tuple(inputs["image_grid_thw"][0, 1:].tolist())
    assert torch.equal(ours.token_ids.flatten(), theirs)
    assert ours.latents.shape[-2:] == (4 * ours.token_ids.shape[0], 4 * ours.token_ids.shape[1])


def test_condition_latents_equal_reference(hybrid: HybridModel, tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.png", 160, 128)
    reference = tiny_checkpoint.diffusers_pipeline(hybrid.folder)
    with torch.no_grad():
        raw = reference.vae.encode(reference.image_processor.preprocess(Image.open(path))).latent_dist.mode()
    mean, std = (torch.tensor(reference.vae.config[key]).view(1, -1, 1, 1) for key in ("latents_mean", "latents_std"))
    ours = encode_condition_image(hybrid, read_image(path)).latents
    torch.testing.assert_close(ours, (raw - mean) / std, atol=1e-5, rtol=1e-5)


def test_alone_or_in_a_batch(hybrid: HybridModel, tmp_path: Path) -> None:
    """Different prompt lengths, numbers of quoted texts and seeds; edits with different numbers of sources."""
    path = make_image(tmp_path / "a.png", 160, 128)
    texts = [request(i) for i in range(3)]
    edits = [request(i, condition_images=(path,) * (i % 2 + 1)) for i in range(3)]
    for requests in (texts, edits):
        together = generate_prior_tokens(hybrid, requests)
        latents = denoise(hybrid, requests, together)
        for i, one in enumerate(requests):
            (alone,) = generate_prior_tokens(hybrid, [one])
            assert torch.equal(alone, together[i])
            single = denoise(hybrid, [one], [alone])[0]
            torch.testing.assert_close(single, latents[i], atol=2e-5, rtol=0)


def test_each_input_matters(hybrid: HybridModel, tmp_path: Path) -> None:
    """Seed, prompt and condition images change the tokens; tokens, seed and quoted text change the latents."""
    base = request(0)
    path = make_image(tmp_path / "a.png", 160, 128)

    def token_ids(one: Request) -> torch.Tensor:
        return generate_prior_tokens(hybrid, [one])[0]

    for change in ({"seed": 5}, {"prompt": "a black bird"}, {"condition_images": (path,)}, {"top_k": 1}):
        assert not torch.equal(token_ids(base), token_ids(request(0, **change)))
    grid = random_token_ids(128, 96)

    def latents(one: Request, prior: torch.Tensor = grid) -> torch.Tensor:
        return denoise(hybrid, [one], [prior])

    for other in (
        latents(request(0, seed=5)),
        latents(request(0, prompt="a red poster with 'HELLA'")),
        latents(base, random_token_ids(128, 96, seed=1)),
        latents(request(0, guidance=3.0)),
    ):
        assert (latents(base) - other).abs().max() > 1e-4
    assert torch.equal(latents(base), latents(request(0, prompt="a blue house with 'HELLO'")))  # only glyphs count


def test_the_global_random_state_is_neither_read_nor_changed(hybrid: HybridModel) -> None:
    one = request(0)
    torch.manual_seed(1)
    first = generate_batch(hybrid, [one])[0]
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert first.tobytes() == generate_batch(hybrid, [one])[0].tobytes()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_bfloat16_generates_nearly_the_same(hybrid: HybridModel, tmp_path: Path) -> None:
    half = HybridModel.load(hybrid.folder, dtype=torch.bfloat16, components=())
    path = make_image(tmp_path / "a.png", 160, 128)
    grid = [random_token_ids(128, 96)]
    for one in (request(0), request(0, condition_images=(path,))):
        (image,) = generate_batch(half, [one])
        assert image.size == (96, 128)
        low, full = (np.asarray(decode_prior_tokens(model, [one], grid)[0]).astype(int) for model in (half, hybrid))
        assert np.abs(low - full).mean() < 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "  \n"}, "prompt is empty"),
        ({"width": 100}, "multiples of 32"),
        ({"width": 640}, "4 times"),
        ({"steps": 0}, "number of steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"seed": -1}, "seed"),
        ({"condition_images": ("a",) * 4}, "1 to 3"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_impossible_requests(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_request(request(**changes))


def test_progress_counts_tokens_and_steps(hybrid: HybridModel) -> None:
    seen: list[tuple[str, int, int]] = []
    generate_batch(hybrid, [request(0)], lambda *step: seen.append(step))
    token_ids, steps = ([step for step in seen if step[0] == stage] for stage in ("prior tokens", "denoising"))
    assert [done for _, done, _ in steps] == [1, 2, 3]
    assert token_ids[-1][1] == token_ids[-1][2] == len(token_ids)
