"""What is wrong with a recipe or its images is said before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmkit import config
from glmkit.errors import UserError
from glmkit.files import read_json, write_json
from glmkit.models import checkpoint
from glmkit.models.checkpoint.torchao import quantization_config
from glmkit.models.hybrid import HybridModel
from glmkit.training import checks, data

ROOT = Path(__file__).parents[2]
POSTERS = ROOT / "data" / "posters" / "validation"


@pytest.fixture(scope="module")
def images() -> data.Datasets:
    return data.load(config.Data.model_validate({"train": str(POSTERS)}))


def test_a_batch_of_more_than_all_images(images: data.Datasets) -> None:
    """Filling it would repeat them without end; a few times is what small sets need."""
    count = len(images[0].captions)
    recipe = config.load(ROOT / "recipes" / "decoder_lora.yaml", ["decoder.global_batch_size=100000"])
    with pytest.raises(UserError, match=rf"global_batch_size is 100000[\s\S]*decoder.global_batch_size={count}"):
        checks.content(recipe, images[0])


def test_a_caption_with_the_token_of_an_image(images: data.Datasets) -> None:
    model = str(checkpoint.NANO)
    checks.captions(model, images)
    images[0].captions[1] += " <|image|>"
    with pytest.raises(UserError, match=r"must not contain <\|image\|>"):
        checks.captions(model, images)


@pytest.mark.parametrize("prompt", ["", "half \ud83d", "NUL \0", "x" * 20_000])
def test_a_sample_prompt_that_no_model_reads(prompt: str) -> None:
    """`glmkit validate` says so, too, for which the published model need not be here."""
    recipe = config.load(ROOT / "recipes" / "decoder_lora.yaml", [])
    samples = recipe.samples.model_copy(update={"prompts": ("OPEN", prompt)})
    with pytest.raises(UserError, match=r"prompt 2 of samples\.prompts is"):
        checks.settings(recipe.model_copy(update={"samples": samples}), torch.device("cpu"))


@pytest.mark.parametrize(
    ("size", "key", "fix"),
    [
        ((64, 96), "data.size", "save them at .*; data.size enlarges none"),
        ((64, 64), "data.edits.size", "data.edits.size=128x128"),
        ((8192, 8192), "data.size", r"data\.size=\d+x\d+"),
    ],
)
def test_condition_images_that_the_model_would_scale(
    size: tuple[int, int], key: str, fix: str, tiny_model: Path
) -> None:
    with pytest.raises(UserError, match=fix):
        checks.condition_image_size(size, HybridModel(tiny_model), key)


def test_weights_in_8_bits_are_not_trained_whole(tiny_copy: Path) -> None:
    """Adapters of them are."""
    file = tiny_copy / "transformer" / "config.json"
    write_json(file, {**read_json(file), "quantization_config": quantization_config("decoder", "e4m3")})
    recipe, device = ROOT / "recipes" / "nano" / "decoder_lora.yaml", torch.device("cpu")
    checks.settings(config.load(recipe, [f"model={tiny_copy}"]), device)
    with pytest.raises(UserError, match="in 8 bits, in which it cannot be trained whole"):
        checks.settings(config.load(recipe, [f"model={tiny_copy}", "decoder.lora=null"]), device)
