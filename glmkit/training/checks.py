"""What may be wrong with a recipe, looked for before anything is written: a run folder fixes its recipe, so a mistake
must not leave one.
"""

from __future__ import annotations

import torch

from glmkit.config import DecoderStage, Recipe
from glmkit.errors import UserError
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.requests import check_request
from glmkit.models import checkpoint
from glmkit.models.devices import check_compile
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq.model import halved_size
from glmkit.training import libraries, lora, quantization
from glmkit.training.data import Datasets, ImageDataset, kinds
from glmkit.training.objectives.decoder import check_text
from glmkit.training.samples import requests_of

MAX_TIMES_IN_BATCH = 16  # that each image may stand in every batch


def settings(recipe: Recipe, device: torch.device) -> None:
    """UserError when something that a recipe asks for cannot be had here."""
    libraries.check(recipe)
    for name, stage in recipe.stages.items():
        if stage.lora is not None:
            quantization.check(name, stage.lora, device)
        if stage.compile:
            check_compile(f"{name}.compile: true", device, f"{name}.compile=false")


def model(recipe: Recipe) -> None:
    """UserError when a recipe and its model do not go together; a model of the hub is downloaded."""
    base = checkpoint.resolve(recipe.model)
    for name, stage in recipe.stages.items():
        if stage.lora is not None:
            with torch.device("meta"):
                lora.inject(checkpoint.new_component(base, name), stage.lora)
    for request in requests_of(base, recipe.samples):
        check_request(request)


def datasets(recipe: Recipe, images: Datasets) -> None:
    """UserError when stages cannot learn from these images what they shall."""
    condition_images(recipe.model, images)
    if "autoregressive" in recipe.stages:
        captions(recipe.model, images)
    content(recipe, images[0])


def condition_images(model: str, images: Datasets) -> None:
    """UserError when the model would read the condition image of an edit at another size."""
    for size in sorted({size for own in images for *_, conditions in kinds(own) for size in conditions}):
        condition_image_size(size, HybridModel(checkpoint.resolve(model)), "data.size")


def captions(model: str, images: Datasets) -> None:
    """UserError when a caption holds the token that stands for an image."""
    token = prompt_tokenizer(checkpoint.resolve(model)).tokenizer.image_token
    for caption in (caption for own in images for caption in own.captions if token in caption):
        raise UserError(f"a caption must not contain {token}", found=caption[:200], fix="take it out")


def content(recipe: Recipe, images: ImageDataset) -> None:
    """UserError when the loss of a stage depends on what is not known of the images, or its batches on few of them."""
    count = sum(images.repeats)
    for name, stage in recipe.stages.items():
        if stage.global_batch_size > MAX_TIMES_IN_BATCH * count:
            raise UserError(
                f"{name}.global_batch_size is {stage.global_batch_size}, and an epoch shows {count} images",
                fix=f"{name}.global_batch_size={count}",
            )
        if isinstance(stage, DecoderStage):
            check_text(images, stage)


def condition_image_size(size: tuple[int, int], hybrid: HybridModel, key: str) -> None:
    """UserError when the model would scale condition images of a size (height, width) first: training does not."""
    height, width = size
    settings = hybrid.condition_image_settings
    rows, columns = (2 * side for side in halved_size(height, width, settings.min_pixels, settings.max_pixels))
    if (rows, columns) != (height, width):
        raise UserError(
            "the model reads condition images of this size at another one",
            found=f"{width}x{height}, read as {columns}x{rows}",
            fix=f"{key}={columns}x{rows}",
        )
