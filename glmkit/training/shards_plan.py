"""What each of several GPUs takes that hold a stage in shards (see `fsdp`), from the plan of one that holds it all.

An estimate from sizes alone: blocks are gathered one after the other, the next one while one computes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from glmkit.config import BlockStage, Recipe
from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.training import data, distributed, fsdp, quantization
from glmkit.training.phases import weight_bytes
from glmkit.training.plan import BYTES_PER_TRAINED, StagePlan, component_config, plan

GATHERED = 2  # blocks that are whole at one time: the one that computes, and the next
MOMENTS = 2  # of AdamW


def plan_in_shards(recipe: Recipe, images: data.ImageDataset, device: torch.device, gpus: int) -> list[StagePlan]:
    """Plan the stages of a recipe for `gpus` GPUs, 1: for one that holds everything.

    UserError for what cannot be shared, or not be held in shards.
    """
    if gpus < 1:
        raise UserError("shards are held by at least one GPU", found=f"--shards {gpus}", fix="--shards 4")
    if gpus == 1:
        return plan(recipe, images, device)
    fsdp.check_stages(recipe.stages)
    distributed.check(recipe.stages, ProcessGroup(0, gpus))
    return [in_shards(planned, recipe, gpus, device) for planned in plan(_of_one(recipe, gpus), images, device)]


def _of_one(recipe: Recipe, gpus: int) -> Recipe:
    """Return the recipe with the samples of one forward pass of one process."""
    changed = {
        name: stage.model_copy(update={"micro_batch_size": stage.global_batch_size // gpus})
        for name, stage in recipe.stages.items()
        if stage.accumulation_steps < gpus
    }
    return recipe.model_copy(update=changed)


def in_shards(planned: StagePlan, recipe: Recipe, gpus: int, device: torch.device) -> StagePlan:
    """Return what each of `gpus` GPUs takes of a stage, from what one takes with as large a micro-batch."""
    stage = recipe.stages[planned.name]
    assert isinstance(stage, BlockStage)
    component = "decoder" if planned.name == "glyph" else planned.name
    with torch.device("meta"):
        transformer = checkpoint.build_component(component, component_config(recipe, component))
    transformer.to(torch.float32 if stage.lora is None else quantization.dtype(stage.lora, device))
    whole, gathered = weight_bytes(transformer), gathered_bytes(transformer, with_gradients=stage.lora is None)
    optimizer = -(-planned.optimizer // gpus)
    held = (planned.weights + planned.optimizer - 4 * planned.trained) // gpus  # gradients are gone
    phases = {**planned.phases, "loading": whole}
    if "saving" in phases:  # with a whole copy in the first process
        phases["saving"] = held + whole
    if "samples" in phases:
        beside = planned.weights + planned.trained * (BYTES_PER_TRAINED - 4)
        phases["samples"] += held + whole - beside
    state = planned.trained * 4 * (1 + MOMENTS + (stage.ema > 0))
    return replace(
        planned,
        weights=-(-planned.weights // gpus) + gathered,
        optimizer=optimizer,
        phases=phases,
        seconds=None if planned.seconds is None else planned.seconds / gpus,
        gpus=gpus,
        host_bytes=max(state, gpus * whole),  # the state is saved by one, and each loads the component
    )


def gathered_bytes(transformer: nn.Module, *, with_gradients: bool) -> int:
    """Count what is whole at one time: two blocks, and what is in none; with its gradients where it is trained."""
    blocks = [weight_bytes(block) for block in fsdp.blocks(transformer)]
    whole = weight_bytes(transformer) - sum(blocks) + GATHERED * max(blocks)
    return whole * 2 if with_gradients else whole
