"""What a recipe would do, in words and in values of JSON (see `plan`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from glmkit import config
from glmkit.config import Recipe
from glmkit.training import units
from glmkit.training.data import Datasets, summary
from glmkit.training.plan import StagePlan
from glmkit.training.shards_plan import plan_in_shards


def explain(recipe: Recipe, datasets: Datasets, device: torch.device, gpus: int = 1) -> list[str]:
    """Tell all that is known of a recipe before it runs: resolved values, data, and the plan of each stage.

    `gpus`: how many will hold the weights in shards.
    """
    about_data = summary.lines(datasets, recipe.largest_batch)
    stages = lines(plan_in_shards(recipe, datasets[0], device, gpus), device)
    return [*config.to_yaml(recipe).splitlines(), "", *about_data, "", *stages]


def explain_as_values(recipe: Recipe, datasets: Datasets, device: torch.device, gpus: int = 1) -> dict[str, Any]:
    """Tell the same as values of JSON."""
    known: dict[str, summary.DatasetSummary | None] = {**summary.summaries(datasets)}
    if recipe.data.validation is None:
        known["validation"] = None
    return {
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "data": {name: about and asdict(about) for name, about in known.items()},
        "stages": [asdict(stage) for stage in plan_in_shards(recipe, datasets[0], device, gpus)],
    }


def lines(stages: list[StagePlan], device: torch.device) -> list[str]:
    """Tell people of the plans."""
    text = []
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    for stage in stages:
        share = units.percent(stage.trained / stage.parameters)
        text.append(f"{stage.name}: {stage.trained:,} of {stage.parameters:,} parameters are trained ({share})")
        lengths = ", ".join(f"{shape}: {tokens}" for shape, tokens in stage.tokens.items())
        text.append(f"  tokens per image at most: {lengths}")
        parts = f"weights {units.size(stage.weights)}, gradients and optimizer {units.size(stage.optimizer)}"
        if stage.activations is None or stage.seconds is None:
            text.append(f"  memory: {parts}, and what the activations need; time: not estimated")
        else:
            parts = f"{parts}, activations {units.size(stage.activations)}"
            of = f" of each of {stage.gpus} GPUs" if stage.gpus > 1 else ""
            text.append(f"  memory{of}: about {units.size(stage.bytes)} ({parts}) beside what Python and torch take")
            if stage.phases:
                others = ", ".join(f"{phase} {units.size(taken)}" for phase, taken in stage.phases.items())
                text.append(f"  memory of all else: {others}; at most {units.size(stage.peak)} at one time")
            if stage.host_bytes:
                text.append(f"  the CPU's memory: about {units.size(stage.host_bytes)}, all processes together")
            text.append(f"  time: about {units.duration(stage.seconds)}, an estimate for {hardware}")
            if stage.round_seconds is not None:
                generated = f"generating the images of one round {units.duration(stage.round_seconds)}"
                text.append(f"  of which {generated}; to reward them is not counted")
    return text
