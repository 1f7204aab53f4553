"""What may be wrong with a recipe, looked for before anything is written: a run folder fixes its recipe, so a mistake
must not leave one.
"""

from __future__ import annotations

from pathlib import Path

import torch

from glmkit import config
from glmkit.config import Recipe
from glmkit.errors import UserError
from glmkit.generation.requests import check_request
from glmkit.models import checkpoint, clip
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq.model import halved_size
from glmkit.training import data, libraries, lora
from glmkit.training import quantization as frozen
from glmkit.training.objectives.decoder import check_text
from glmkit.training.objectives.vae import check_crop
from glmkit.training.samples import requests_of
from glmkit.values import read_yaml


def settings(recipe: Recipe, device: torch.device) -> None:
    """UserError when something that a recipe asks for cannot be had here."""
    libraries.check(recipe)
    for name, stage in recipe.stages.items():
        if stage.lora is not None:
            frozen.check(name, stage.lora, device)


def model(recipe: Recipe) -> None:
    """UserError when a recipe and its model do not go together; a model of the hub is downloaded."""
    if recipe.architecture:
        if recipe.model == "nano":
            raise UserError("architecture makes a new model, and nano exists", fix="model=FOLDER, or architecture=null")
        read_yaml(recipe.architecture)
        return
    if recipe.clip:
        clip.check(Path(recipe.model))
        return
    base = checkpoint.resolve(recipe.model)
    for name, stage in recipe.stages.items():
        if stage.lora is not None:
            with torch.device("meta"):
                lora.inject(checkpoint.new_component(base, name), stage.lora)
    for request in requests_of(base, recipe.samples):
        check_request(request)
    if recipe.data.edits:
        for size in recipe.data.edits.shares:
            _check_condition_image_size(size, HybridModel(base), "data.edits.size")


def condition_images(recipe: Recipe, images: tuple[data.ImageDataset, data.ImageDataset]) -> None:
    """UserError when the model would read the source of an edit at another size."""
    if not recipe.architecture:
        for size in sorted({own.sizes[index] for own in images for index in own.condition_images.values()}):
            _check_condition_image_size(size, HybridModel(checkpoint.resolve(recipe.model)), "data.size")


def content(recipe: Recipe, images: data.ImageDataset) -> None:
    """UserError when stages cannot learn from these training images what they shall."""
    if recipe.vae is not None:
        check_crop(images, recipe.vae)
    for stage in recipe.stages.values():
        if isinstance(stage, config.DecoderStage):
            check_text(images, stage)


def _check_condition_image_size(size: tuple[int, int], hybrid: HybridModel, key: str) -> None:
    """Training encodes sources as they are; the model would scale those of other sizes (height, width) first."""
    height, width = size
    settings = hybrid.condition_image_settings
    rows, columns = (2 * side for side in halved_size(height, width, settings.min_pixels, settings.max_pixels))
    if (rows, columns) != (height, width):
        raise UserError(
            "the model reads source images of this size at another one",
            found=f"{width}x{height}, read as {columns}x{rows}",
            fix=f"{key}={columns}x{rows}",
        )
