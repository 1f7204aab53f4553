"""What to change when a stage needs more memory than there is: the cheapest changes first, each with what it saves."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator, Mapping

import torch

from glmkit import config
from glmkit.config import BlockStage, Stage
from glmkit.config.recipe import AnyRecipe
from glmkit.config.values import override
from glmkit.errors import UserError, first_line
from glmkit.training import plan, units
from glmkit.training.data import ImageDataset
from glmkit.training.objectives import StageKind

SHOWN = 3
NEW_RUN = "output=NEW_FOLDER"
LEAST_SHARE = 0.01  # of what is needed, that a change must save to be named
# The phase of a stage, by the function that ran out of memory in it.
PHASES = {"precompute": "precomputing", "_sample": "samples", "quantize_and_offload": "loading", "export": "saving"}


def explain(
    error: BaseException,
    name: str,
    recipe: AnyRecipe,
    images: ImageDataset,
    device: torch.device,
    kinds: Mapping[str, StageKind],
) -> UserError:
    """Make the error of a stage that ran out of memory."""
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    phase = next((phase for function, phase in PHASES.items() if function in functions), "training")
    found = savings(name, phase, recipe, images, device, kinds[name]) if name in kinds else iter(())
    tries = [f"{change} (about {units.size(saved)} less)" for change, saved in itertools.islice(found, SHOWN)]
    fix = ", or ".join(tries) or "a device with more memory, or end what else uses it"
    return UserError(f"{name}: out of memory while {phase}", found=first_line(error), fix=fix)


def savings(
    name: str, phase: str, recipe: AnyRecipe, images: ImageDataset, device: torch.device, kind: StageKind
) -> Iterator[tuple[str, int]]:
    """Yield changes `key=value`, and the bytes that each saves in a phase of a stage by the estimates of `plan`."""
    shapes = plan.shapes_of(images)

    def needed(changed: AnyRecipe, shapes: list[plan.Shape]) -> int:
        is_step = phase == "training"
        planned = plan.plan_stage(name, kind, changed, shapes, images.captions, device, 1, with_phases=not is_step)
        return planned.bytes if is_step else planned.phases.get(phase, 0)

    now = needed(recipe, shapes)
    for change in _changes(name, recipe.stages[name], recipe, device):
        values = override(recipe.model_dump(mode="json", exclude_none=True), change.split())
        saved = now - needed(config.from_dict(values, "recipe", type(recipe)), shapes)
        if saved > LEAST_SHARE * now:
            yield change, saved
    smaller = [(_smaller(height), _smaller(width), is_edit) for height, width, is_edit in shapes]
    height, width, _ = max(smaller)
    if (saved := now - needed(recipe, smaller)) > LEAST_SHARE * now:
        yield f"data.size={width}x{height} {NEW_RUN}", saved


def _smaller(side: int) -> int:
    return max(32, side * 3 // 4 // 32 * 32)


def _changes(name: str, stage: Stage, recipe: AnyRecipe, device: torch.device) -> Iterator[str]:
    """Yield what can be changed, from what costs nothing but time to what changes the weights that are learnt.

    The latter is for a new run: its folder is part of the change.
    """
    if isinstance(stage, BlockStage) and not stage.gradient_checkpointing:
        yield f"{name}.gradient_checkpointing=1"
    micro = stage.micro_batch_size or stage.global_batch_size
    if smaller := [size for size in range(1, micro) if stage.global_batch_size % size == 0]:
        yield f"{name}.micro_batch_size={smaller[-1]} {NEW_RUN}"
    lora = stage.lora
    is_plain = lora is not None and not lora.is_low_memory and not lora.dora
    waits = lora is not None and lora.base != "fp8-compute"
    if is_plain and waits and not stage.compile and device.type == "cuda":
        yield f"{name}.lora.offload=true"
    if recipe.samples.prompts:
        yield "samples.prompts=[]"
    if is_plain:
        yield f"{name}.lora.base=fp8 {NEW_RUN}"
