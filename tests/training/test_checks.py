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


def test_weights_in_8_bits_are_not_trained_whole(tiny_copy: Path) -> None:
    """Adapters of them are."""
    file = tiny_copy / "transformer" / "config.json"
    write_json(file, {**read_json(file), "quantization_config": quantization_config("decoder", "e4m3")})
    recipe, device = ROOT / "recipes" / "nano" / "decoder_lora.yaml", torch.device("cpu")
    checks.settings(config.load(recipe, [f"model={tiny_copy}"]), device)
    with pytest.raises(UserError, match="in 8 bits, in which it cannot be trained whole"):
        checks.settings(config.load(recipe, [f"model={tiny_copy}", "decoder.lora=null"]), device)
