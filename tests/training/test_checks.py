"""What is wrong with a recipe or its images is said before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkit import config
from glmkit.errors import UserError
from glmkit.models import checkpoint
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
