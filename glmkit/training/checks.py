"""What may be wrong with a recipe, looked for before anything is written: a run folder fixes its recipe, so a mistake
must not leave one.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import torch

from glmkit import text
from glmkit.config import DecoderStage, Recipe, Stage
from glmkit.errors import UserError
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.requests import check_request
from glmkit.models import checkpoint
from glmkit.models.checkpoint import adapter_files, adapters, published, torchao, weights
from glmkit.models.devices import check_compile
from glmkit.models.hybrid import HybridModel
from glmkit.models.quantized import MATRICES
from glmkit.training import libraries, lora, quantization
from glmkit.training.data import Datasets, ImageDataset, kinds
from glmkit.training.objectives.decoder import check_text
from glmkit.training.rl.rewards import check as check_rewards
from glmkit.training.samples import requests_of

MAX_TIMES_IN_BATCH = 16  # that each image may stand in every batch


def settings(recipe: Recipe, device: torch.device) -> None:
    """Raise UserError when something that a recipe asks for cannot be had here."""
    libraries.check(recipe)
    for number, prompt in enumerate(recipe.samples.prompts, start=1):
        text.check_text(prompt, f"prompt {number} of samples.prompts")
    start(recipe)
    # A pretraining's own model may not be there yet, and the published one need not be.
    has_no_files = bool(getattr(recipe, "architecture", None)) or published.is_published(recipe.model)
    for name, stage in recipe.stages.items():
        if stage.lora is not None:
            quantization.check(name, stage.lora, device)
        elif name in MATRICES and not has_no_files and torchao.is_quantized(checkpoint.resolve(recipe.model), name):
            what = f"{recipe.model} holds its {name} in 8 bits, in which it cannot be trained whole"
            fix = f"adapters, by a section {name}.lora, or model= that which it was made from"
            raise UserError(what, found=f"{name} without lora", fix=fix)
        if (rl := getattr(stage, "rl", None)) is not None:
            check_rewards(rl.rewards)
        if stage.compile:
            check_compile(f"{name}.compile: true", device, f"{name}.compile=false")


def start(recipe: Recipe) -> None:
    """Raise UserError unless the stages can begin with the adapter that a recipe starts from."""
    if recipe.start_from is None:
        return
    adapter, base = adapters.Adapter.parse(recipe.start_from), checkpoint.resolve(recipe.model)
    if adapter.weight != 1:
        raise UserError(
            "training starts from an adapter as it is",
            found=recipe.start_from,
            fix=shlex.quote(f"start_from={adapter.folder}"),
        )
    output, begun_in = (Path(os.path.realpath(path)) for path in (recipe.output, adapter.folder))
    if output in (begun_in, *begun_in.parents):
        raise UserError("a run cannot start from its own adapter", found=output, fix="output=NEW_FOLDER")
    adapters.check_adapter(base, adapter.folder)
    begun = adapter_files.read(adapter.folder)
    if not begun.keys() & recipe.stages.keys():
        raise UserError(
            f"{adapter.folder} adapts nothing that the recipe trains",
            found=f"{', '.join(begun)}; the recipe trains {', '.join(recipe.stages)}",
            fix="another adapter, or a recipe with that stage",
        )
    for name in begun.keys() & recipe.stages.keys():
        _start_of_stage(name, recipe.stages[name], begun[name], base)
    if others := sorted(begun.keys() - recipe.stages.keys()):
        print(
            f"note: {adapter.folder} adapts the {' and the '.join(others)}, too, which stays as it is", file=sys.stderr
        )


def _start_of_stage(name: str, stage: Stage, begun: adapter_files.ComponentAdapter, base: Path) -> None:
    """UserError unless a stage trains the very layers of an adapter, with its ranks and scales."""
    if stage.lora is None:
        merge = shlex.join(["glmkit", "merge", str(base), "--adapter", str(begun.file.parent)])
        raise UserError(
            f"{name} is trained whole, and {begun.file} is an adapter of it",
            fix=f"{merge} --out MERGED, then model=MERGED",
        )
    with torch.device("meta"):
        ours = lora.inject(checkpoint.new_component(base, name), stage.lora)
        theirs = adapters.inject(checkpoint.new_component(base, name), begun)
    shapes = [
        {key: tuple(value.shape) for key, value in one.named_parameters() if "lora_" in key} for one in (ours, theirs)
    ]
    if shapes[0] != shapes[1] or lora.scales(ours) != lora.scales(theirs):
        rank, alpha, targets = (begun.settings[key] for key in ("r", "lora_alpha", "target_modules"))
        listed = json.dumps(sorted(targets if isinstance(targets, list) else begun.layers)).replace(" ", "")
        raise UserError(
            f"{name}.lora differs from the adapter that the recipe starts from: {begun.file}",
            found=weights.listed(f"{key}: {value}" for key, value in begun.settings.items()),
            fix=f"{name}.lora.rank={rank} {name}.lora.alpha={alpha:g} '{name}.lora.targets={listed}'",
        )


def model(recipe: Recipe) -> None:
    """Raise UserError when a recipe and its model do not go together; a model of the hub is downloaded."""
    base = checkpoint.resolve(recipe.model)
    for name, stage in recipe.stages.items():
        if stage.lora is not None:
            with torch.device("meta"):
                lora.inject(checkpoint.new_component(base, name), stage.lora)
    for request in requests_of(base, recipe.samples):
        check_request(request)


def datasets(recipe: Recipe, images: Datasets) -> None:
    """Raise UserError when stages cannot learn from these images what they shall."""
    condition_images(recipe.model, images)
    if "autoregressive" in recipe.stages:
        captions(recipe.model, images)
    content(recipe, images[0])
    for name, stage in recipe.stages.items():
        pairs(name, stage, images[1])


def condition_images(model: str, images: Datasets) -> None:
    """Raise UserError when the model would read the condition image of an edit at another size."""
    for size in sorted({size for own in images for *_, conditions in kinds(own) for size in conditions}):
        condition_image_size(size, HybridModel(checkpoint.resolve(model)), "data.size")


def captions(model: str, images: Datasets) -> None:
    """Raise UserError when a caption holds the token that stands for an image."""
    token = prompt_tokenizer(checkpoint.resolve(model)).tokenizer.image_token
    for caption in (caption for own in images for caption in own.captions if token in caption):
        raise UserError(f"a caption must not contain {token}", found=caption[:200], fix="take it out")


def content(recipe: Recipe, images: ImageDataset) -> None:
    """Raise UserError when a loss depends on what is not known of the images, or batches on few of them."""
    count = sum(images.repeats)
    for name, stage in recipe.stages.items():
        times = stage.global_batch_size // stage.examples_per_step
        if stage.examples_per_step > MAX_TIMES_IN_BATCH * count:
            raise UserError(
                f"{name}.global_batch_size is {stage.global_batch_size}, and an epoch shows {count * times} images",
                fix=f"{name}.global_batch_size={count * times}",
            )
        if isinstance(stage, DecoderStage) and not stage.learns_from_rewards:
            check_text(images, stage)
        pairs(name, stage, images)


def pairs(name: str, stage: Stage, images: ImageDataset) -> None:
    """Raise UserError when a stage learns from pairs, and some images have no rejected one beside them."""
    alone = [index for index, count in enumerate(images.repeats) if count and index not in images.rejected]
    if getattr(stage, "dpo", None) is not None and alone:
        raise UserError(
            f"{name}.dpo learns from pairs, and {len(alone)} images have no rejected one",
            found=f"the caption {images.captions[alone[0]][:80]!r}",
            fix="chosen_file_name and rejected_file_name in metadata.jsonl, as glmkit pairs writes them",
        )


def condition_image_size(size: tuple[int, int], hybrid: HybridModel, key: str) -> None:
    """Raise UserError when the model would first scale condition images of a (height, width): training does not."""
    height, width = size
    rows, columns = (2 * side for side in hybrid.condition_image_settings.halved_size(height, width))
    if (rows, columns) != (height, width):
        enlarges = key == "data.size" and rows * columns > height * width
        raise UserError(
            "the model reads condition images of this size at another one",
            found=f"{width}x{height}, read as {columns}x{rows}",
            fix=f"save them at {columns}x{rows}; {key} enlarges none" if enlarges else f"{key}={columns}x{rows}",
        )
