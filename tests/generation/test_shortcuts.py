"""Shortcuts of denoising: what they compute, against diffusers; the same alone and in a batch; and who may know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
import torch
from PIL import Image
from torch import Tensor

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.generation.denoising import denoise, initial_noise, upsample_prior_tokens
from glmkit.generation.flow_matching import full_steps, guided_steps
from glmkit.generation.images import image_text, is_image_of, save_png
from glmkit.generation.requests import check_request
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

PLAIN = Request("a", "a red poster with 'HELLO'", height=64, width=96, steps=9, guidance=2.5)


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return HybridModel.load(tiny_model)


def token_ids(seed: int = 0) -> Tensor:
    return torch.randint(tiny_checkpoint.CODES, (2, 3), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("reuse", "steps", "skipped"),
    [
        (1, 30, []),
        (2, 6, [4]),
        (2, 20, [4, 6, 8, 10, 12, 14, 16, 18]),
        (3, 20, [4, 5, 7, 8, 10, 11, 13, 14, 16, 17]),
        (2, 5, []),
    ],
)
def test_which_steps_are_full(reuse: int, steps: int, skipped: list[int]) -> None:
    assert [step for step, full in enumerate(full_steps(steps, reuse)) if not full] == skipped


def test_the_work_at_the_published_number_of_steps() -> None:
    assert [sum(full_steps(steps, reuse)) for steps in (30, 50) for reuse in (2, 3)] == [17, 13, 27, 20]
    assert [guided_steps(30, 1.5, share) for share in (1.0, 0.5, 0.1, 0.001)] == [30, 15, 3, 1]
    assert guided_steps(30, 1.0) == 0
    assert sum(full_steps(30, 2)) + sum(full_steps(30, 2)[: guided_steps(30, 1.5, 0.5)]) == 26


@pytest.mark.parametrize(
    ("reuse", "full", "guided", "n_guided"),
    [(2, (0, 1, 2, 3, 5, 7, 8), 1.0, 9), (3, (0, 1, 2, 3, 6, 8), 0.5, 4), (1, range(9), 0.3, 3)],
)
def test_latents_equal_the_reference(hybrid: HybridModel, reuse: int, full: Any, guided: float, n_guided: int) -> None:
    """diffusers' pipeline, with hooks that put x_in + (x_out - x_in of the last full step) behind its last block, and
    without guidance from a step on."""
    pipeline = tiny_checkpoint.diffusers_pipeline(hybrid.folder)
    passes: list[Tensor] = []  # image tokens before the blocks; conditional and unconditional in turns while guided
    residuals: dict[bool, Tensor] = {}

    def before(_module: Any, args: tuple[Tensor, ...]) -> None:
        passes.append(args[0])

    def behind(_module: Any, _args: Any, result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        number, n_both = len(passes) - 1, 2 * n_guided
        step, unconditional = divmod(number, 2) if number < n_both else (number - n_guided, 0)
        image = result[0]
        if step in full:
            residuals[bool(unconditional)] = image - passes[-1]
            return result
        return passes[-1] + residuals[bool(unconditional)], result[1]

    def no_guidance_from(pipe: Any, step: int, _sigma: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step + 1 == n_guided:
            pipe._guidance_scale = 1.0
        return values

    blocks, one = pipeline.transformer.transformer_blocks, replace(PLAIN, reuse=reuse, guided=guided)
    hooks = [blocks[0].register_forward_pre_hook(before), blocks[-1].register_forward_hook(behind)]
    try:
        theirs = pipeline(
            prompt=one.prompt,
            height=one.height,
            width=one.width,
            num_inference_steps=one.steps,
            guidance_scale=one.guidance,
            latents=initial_noise(hybrid, one),
            prior_token_ids=upsample_prior_tokens(token_ids())[None],
            callback_on_step_end=no_guidance_from,
            output_type="latent",
        ).images
    finally:
        for hook in hooks:  # other tests use the same pipeline
            hook.remove()
    ours = denoise(hybrid, [one], [token_ids()])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    exact = denoise(hybrid, [PLAIN], [token_ids()])
    assert (ours - exact).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [{"reuse": 2}, {"guided": 0.5}, {"reuse": 3, "guided": 0.4}])
def test_alone_or_in_a_batch(hybrid: HybridModel, settings: dict[str, Any]) -> None:
    """The same bits, whatever the number of threads: each computes whole samples."""
    prompts = ("a red poster with 'HELLO'", "“ONE” and 'TWO' over the sea", "no text")
    requests = [replace(PLAIN, id=p, prompt=p, seed=n, **settings) for n, p in enumerate(prompts)]
    ids = [token_ids(number) for number in range(len(requests))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        together = denoise(hybrid, requests, ids)
        alone = [denoise(hybrid, [one], [of_one])[0] for one, of_one in zip(requests, ids, strict=True)]
    finally:
        torch.set_num_threads(threads)
    # The glyph encoder pads a batch's texts to one length: the rounding of a longer product is all that may differ.
    torch.testing.assert_close(together, torch.stack(alone), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reuse": 4}, "reuse must be 2 or 3"),
        ({"reuse": 0}, "reuse must be 2 or 3"),
        ({"reuse": 2, "steps": 5}, "so few steps leave nothing to a reuse of 2"),
        ({"guided": 0.0}, "above 0 and at most 1"),
        ({"guided": 1.5}, "above 0 and at most 1"),
        ({"guided": float("nan")}, "above 0 and at most 1"),
        ({"guided": 0.5, "guidance": 1.0}, "guidance, which is off"),
    ],
)
def test_what_cannot_be_shortened(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_request(replace(PLAIN, **changes))


def test_an_image_says_how_it_was_made(tmp_path: Path) -> None:
    """An exact one is none of a shortcut, nor the other way round; its text is what it was."""
    path, short = tmp_path / "a.png", replace(PLAIN, reuse=2, guided=0.5)
    assert not {"reuse", "guided"} & image_text(PLAIN, "nano").keys()
    save_png(path, Image.new("RGB", (96, 64)), image_text(short, "nano"))
    assert is_image_of(path, short, "")
    for other in (PLAIN, replace(short, guided=1.0), replace(short, reuse=3)):
        assert not is_image_of(path, other, "")
        save_png(tmp_path / "b.png", Image.new("RGB", (96, 64)), image_text(other, "nano"))
        assert not is_image_of(tmp_path / "b.png", short, "")


def test_from_the_command_line(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--model", str(tiny_model), "--size", "64x64", "--steps", "6", "--device", "cpu", "--guidance", "2.5"]
    made = []
    for name, options in (("exact", []), ("short", ["--reuse", "2", "--guided", "0.5"])):
        assert main(["generate", "an 'A'", *command, *options, "--out", str(tmp_path / f"{name}.png")]) == 0
        with Image.open(tmp_path / f"{name}.png") as image:
            made.append((image.tobytes(), image.info.get("reuse"), image.info.get("guided")))
    assert made[0][0] != made[1][0]
    assert [one[1:] for one in made] == [(None, None), ("2", "0.5")]
    assert main(["generate", "an 'A'", *command, "--vae-tiling", "--out", str(tmp_path / "tiled.png")]) == 0
    with Image.open(tmp_path / "tiled.png") as image:
        assert (image.tobytes() != made[0][0], image.info.get("vae_tiling")) == (True, "True")
    source = str(tmp_path / "exact.png")
    assert main(["edit", source, "an 'A'", *command, "--reuse", "2", "--out", str(tmp_path / "e.png")]) == 0
    assert main(["generate", "a", *command, "--reuse", "5", "--out", str(tmp_path / "c.png")]) == 2
    assert "reuse must be 2 or 3" in capsys.readouterr().err
    assert not (tmp_path / "c.png").exists()
