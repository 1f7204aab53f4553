"""The Python API: the same images as the commands, lazily imported, with one kind of error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_adapter import make_adapter

import glmkit
from glmkit.cli import main

PROMPT = "A red 'A' on blue."
QUICK = {"height": 64, "width": 64, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> glmkit.Model:
    return glmkit.load(tiny_model, device="cpu")


def pixels(image: Image.Image | None) -> bytes:
    assert image is not None
    return np.asarray(image.convert("RGB")).tobytes()


def test_import_is_quick_and_light() -> None:
    code = "import glmkit, sys; print(sorted({'torch', 'PIL', 'numpy', 'pandas'} & set(sys.modules)))"

    def seconds() -> float:
        before = os.times()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.3


def test_every_public_name_is_there() -> None:
    assert set(glmkit.__all__) <= set(dir(glmkit))
    assert all(getattr(glmkit, name).__doc__ for name in glmkit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'generate'"):
        _ = glmkit.generate


def test_the_command_gives_the_same_image(model: glmkit.Model, tiny_model: Path, tmp_path: Path) -> None:
    size = ["--size", "64x64", "--steps", "2", "--seed", "3", "--device", "cpu"]
    assert main(["generate", PROMPT, "--model", str(tiny_model), "--out", str(tmp_path / "a.png"), *size]) == 0
    image = model.generate(PROMPT, seed=3, **QUICK)
    assert pixels(image) == pixels(Image.open(tmp_path / "a.png"))


def test_texts_are_given_beside_a_prompt(model: glmkit.Model, tiny_model: Path, tmp_path: Path) -> None:
    """They take the place of what stands in quotes, the same by the command."""
    plain, quoted = "A red A on blue.", model.generate(PROMPT, **QUICK)
    image = model.generate(plain, texts=["A"], **QUICK)
    assert pixels(image) != pixels(model.generate(plain, **QUICK))
    assert pixels(model.generate(PROMPT, texts=["A"], **QUICK)) == pixels(quoted)
    assert pixels(model.generate(PROMPT, texts=["B"], **QUICK)) != pixels(quoted)
    size = ["--size", "64x64", "--steps", "2", "--device", "cpu", "--model", str(tiny_model)]
    assert main(["generate", plain, "--text", "A", "--out", str(tmp_path / "a.png"), *size]) == 0
    assert pixels(image) == pixels(Image.open(tmp_path / "a.png"))
    for prompts, texts in ((PROMPT, "A"), ([PROMPT, plain], ["A"])):
        with pytest.raises(glmkit.GenerationError, match="texts"):
            model.generate(prompts, texts=texts, **QUICK)
    (tmp_path / "p.txt").write_text("a")
    assert main(["generate", "--prompts", str(tmp_path / "p.txt"), "--text", "A", "--out", str(tmp_path / "o")]) == 2


def test_a_batch_gives_the_images_of_single_calls_in_order(model: glmkit.Model) -> None:
    prompts = [PROMPT, "A blue 'B'.", "A green 'C'."]
    results = list(model.generate(prompts, seed=[5, 6, 7], batch_size=2, **QUICK))
    assert [(one.prompt, one.seed, one.error) for one in results] == [
        (prompt, seed, None) for prompt, seed in zip(prompts, (5, 6, 7), strict=True)
    ]
    for one in results:
        assert pixels(one.image) == pixels(model.generate(one.prompt, seed=one.seed, **QUICK))


def test_one_prompt_with_several_seeds(model: glmkit.Model) -> None:
    first, second = model.generate(PROMPT, seed=[0, 1], **QUICK)
    assert first.prompt == second.prompt == PROMPT
    assert pixels(first.image) != pixels(second.image)


def test_a_request_that_fails(model: glmkit.Model, tmp_path: Path) -> None:
    """It raises one documented type; in a batch it is the error of its result, and costs the others nothing."""
    with pytest.raises(glmkit.GenerationError, match="multiples of 32"):
        model.generate(PROMPT, height=100, width=64)
    with pytest.raises(glmkit.GenerationError, match="height and width together"):
        model.generate(PROMPT, height=64)
    with pytest.raises(glmkit.UserError, match="height and width together"):
        glmkit.evaluate("text-render", width=64)
    with pytest.raises(glmkit.GenerationError, match="3 prompts, 2 seeds"):
        model.generate(["a", "b", "c"], seed=[0, 1])
    with pytest.raises(glmkit.GenerationError, match="does not exist"):
        model.edit(tmp_path / "none.png", "Make it red.")
    bad, good = model.generate(["<|image|>", PROMPT], **QUICK)
    assert isinstance(bad.error, glmkit.GenerationError)
    assert bad.image is None
    assert good.error is None
    assert good.image is not None
    assert issubclass(glmkit.GenerationError, glmkit.UserError)


def test_edit_takes_paths_and_images(model: glmkit.Model, tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 96), 90).convert("RGB")
    noise.save(tmp_path / "noise.png")
    options = {"num_inference_steps": 2, "height": 64, "width": 64}
    by_path = model.edit(tmp_path / "noise.png", "Make it red.", **options)
    assert pixels(by_path) == pixels(model.edit(noise, "Make it red.", **options))
    both = model.edit([noise, tmp_path / "noise.png"], "Put them side by side.", **options)
    assert pixels(both) != pixels(by_path)


def test_adapters_change_the_image(model: glmkit.Model, tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path / "adapter", "decoder")
    adapted = glmkit.load(tiny_model, device="cpu", adapters=[f"{tmp_path / 'adapter'}:0.5"])
    assert adapted.adapters == (f"{tmp_path / 'adapter'}:0.5",)
    assert glmkit.load(tiny_model, device="cpu", adapters=f"{tmp_path / 'adapter'}:0.5").adapters == adapted.adapters
    assert glmkit.load(tiny_model, device="cpu", adapters=tmp_path / "adapter").adapters == (f"{tmp_path / 'adapter'}",)
    assert pixels(adapted.generate(PROMPT, **QUICK)) != pixels(model.generate(PROMPT, **QUICK))
    with pytest.raises(glmkit.UserError, match="does not exist"):
        glmkit.load(tiny_model, adapters=[tmp_path / "none"])


def test_progress_is_told_to_a_function(model: glmkit.Model) -> None:
    calls: list[tuple[str, int, int]] = []
    model.generate(PROMPT, progress=lambda *call: calls.append(call), **QUICK)
    assert ("denoising", 2, 2) in calls
