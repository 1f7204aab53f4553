"""Run a pretraining recipe by `glmkit.training.finetune`, with stages, images and a model folder of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from glmkit import config
from glmkit.config import Stage
from glmkit.config.values import read_yaml
from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.errors import UserError
from glmkit.models import checkpoint, clip
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining import autoregressive, decoder, posters, semantic_vq, vae
from glmkit.pretraining.characters import check_character_labels
from glmkit.pretraining.clip import ClipObjective
from glmkit.pretraining.config import PosterData, PretrainRecipe
from glmkit.pretraining.initialise import initialise, initialise_clip
from glmkit.training import checks, explanation, model_folder, plan
from glmkit.training.context import StageContext
from glmkit.training.data import Datasets, summary
from glmkit.training.finetune import Workflow, prepare, run_recipe
from glmkit.training.objectives import StageKind, stage_kinds
from glmkit.training.stage import PreparedStage


def pretrain(
    recipe: PretrainRecipe, device: torch.device, group: ProcessGroup = SINGLE_PROCESS, allow_changes: bool = False
) -> dict[str, Any]:
    """Run every stage of `recipe` that is not done yet; returns the stages' results by name.

    `allow_changes` is that of `glmkit.training.finetune.finetune`, for stages that are not done.
    """
    return run_recipe(recipe, device, PRETRAINING, group, allow_changes)


def pretraining_kinds() -> dict[str, StageKind]:
    """Return what each stage of pretraining is made of, but for that of a CLIP."""
    return {
        **stage_kinds(),
        "vae": vae.KIND,
        "semantic_vq": semantic_vq.KIND,
        "autoregressive": autoregressive.KIND,
        "decoder": decoder.KIND,
    }


def _check_model(recipe: PretrainRecipe) -> None:
    if recipe.architecture:
        if recipe.model == "nano":
            raise UserError("architecture makes a new model, and nano exists", fix="model=FOLDER, or architecture=null")
        read_yaml(recipe.architecture)
    elif recipe.clip:
        clip.check(Path(recipe.model))
    else:
        checks.model(recipe)
        for size in recipe.data.edits.shares if recipe.data.edits else ():
            checks.condition_image_size(size, HybridModel(checkpoint.resolve(recipe.model)), "data.edits.size")


def _check_datasets(recipe: PretrainRecipe, datasets: Datasets) -> None:
    if not recipe.architecture and not recipe.clip:
        checks.condition_images(recipe.model, datasets)
    if recipe.vae is not None:
        vae.check_crop(datasets[0], recipe.vae)
    checks.content(recipe, datasets[0])
    if recipe.semantic_vq is not None and (recipe.semantic_vq.shape_weight or recipe.semantic_vq.text_weight):
        check_character_labels(datasets[0], "shape_weight or text_weight")
    if recipe.decoder is not None and recipe.decoder.character_weight:
        check_character_labels(datasets[0], "character_weight")


def _model_folder(recipe: PretrainRecipe) -> Path:
    """Make the model that is not there yet, and the copy of it that trained components are written into.

    The recipes of one model share these folders, one after the other.
    """
    folder = Path(recipe.model)
    if recipe.architecture:
        if not (folder / (clip.CONFIG if recipe.clip else checkpoint.INDEX)).exists():
            model_folder.claim(folder, model_folder.PRETRAINING)
        (initialise_clip if recipe.clip else initialise)(folder, recipe.architecture)
    base = clip.check(folder) if recipe.clip else checkpoint.resolve(recipe.model)
    if all(stage.lora is not None for stage in recipe.stages.values()):
        return base
    output = Path(recipe.output)
    return model_folder.writable_copy(
        base, Path(recipe.save or output / "model"), output, maker=model_folder.PRETRAINING
    )


def _prepare(
    context: StageContext, stage: Stage, recipe: PretrainRecipe, folder: Path, datasets: Datasets
) -> PreparedStage:
    if context.name != "clip":
        return prepare(context, stage, recipe, folder, datasets, pretraining_kinds()[context.name])
    torch.manual_seed(context.seed)
    trained = clip.load(folder)
    trained.model.to(context.device)
    objective = ClipObjective(trained, *datasets, context.device)
    if stage.compile:
        objective.compile()
    return PreparedStage(objective, partial(clip.save, folder, trained, getattr(torch, recipe.save_dtype)))


PRETRAINING: Workflow[PretrainRecipe] = Workflow(
    "pretrain",
    _check_model,
    lambda recipe: posters.load(recipe.data),
    _check_datasets,
    _model_folder,
    _prepare,
    pretraining_kinds,
)


def explain(recipe: PretrainRecipe, device: torch.device) -> list[str]:
    """Say all that is known of a recipe before it runs; posters are not rendered, their settings say enough."""
    checks.settings(recipe, device)
    lines, shapes, captions = config.to_yaml(recipe).splitlines(), _poster_shapes(recipe), list[str]()
    if recipe.data.train:
        datasets = posters.load(recipe.data)
        _check_datasets(recipe, datasets)
        lines += ["", *summary.lines(datasets, recipe.largest_batch)]
        shapes, captions = plan.shapes_of(datasets[0]), datasets[0].captions
    if recipe.clip or (recipe.architecture and not Path(recipe.model).exists()):
        return [*lines, "", f"{recipe.model} is no model yet whose components could be counted"]
    stages = plan.plan_stages(recipe, shapes, captions, device, pretraining_kinds())
    return [*lines, "", *explanation.lines(stages, device)]


def _poster_shapes(recipe: PretrainRecipe) -> list[plan.Shape]:
    """Return the shapes that posters and edits will have."""
    kinds: list[tuple[PosterData | None, bool]] = [
        (recipe.data.posters, False),
        (recipe.data.edits, False),
        (recipe.data.edits, True),
    ]
    return [(*size, (size,) * is_edit) for settings, is_edit in kinds if settings for size in settings.shares]
