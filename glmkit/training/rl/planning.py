"""What rounds of generated images take, before anything is loaded: memory beside the weights, and seconds.

The decoder is counted as training is (see `training.plan`). The AR model decodes as fast as its weights are read, once
per token for all images that are generated together, or as it computes, whichever takes longer.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from glmkit.config import Recipe, Stage
from glmkit.config.rl import Rl
from glmkit.generation.sequence import grids
from glmkit.models import checkpoint
from glmkit.models.devices import dtype_for
from glmkit.models.hardware import measure_rates
from glmkit.training import phases, plan, quantization
from glmkit.training.memory_tracker import forward_pass_cost
from glmkit.training.plan import Shape, StagePlan
from glmkit.training.rl import prompts


def with_rounds(
    planned: StagePlan, recipe: Recipe, shapes: list[Shape], captions: list[str], device: torch.device
) -> StagePlan:
    """Add to the plan of a stage what generates beside its steps, with every component in memory."""
    stage = recipe.stages[planned.name]
    rl: Rl = stage.rl  # type: ignore[attr-defined]
    rates = measure_rates(device, dtype_for(device))
    components = {name: _component(recipe, stage, name, device) for name in phases.GENERATES}
    height, width, _ = max(shapes, key=lambda shape: shape[0] * shape[1])
    together = min(rl.generate_at_once, stage.global_batch_size)
    images = stage.global_batch_size + stage.examples_per_step  # and one of each prompt without adapters

    # 1. Memory: what generates beside what learns, and the larger half of generation.
    others = sum(phases.weight_bytes(module) for name, module in components.items() if name != planned.name)
    request = prompts.load(recipe)[0].requests[0]  # for the model's defaults
    guided = 1 + ((request.guidance if rl.guidance is None else rl.guidance) > 1)
    both = {name: components[name] for name in ("decoder", "glyph")}
    velocity = forward_pass_cost(
        lambda: plan.decoder_loss(both, (height, width, ()), guided * together, captions),
        (value for module in both.values() for value in module.parameters()),
    )
    taken = phases.sampling(
        together,
        height,
        width,
        phases.GENERATES,
        velocity.peak_bytes,
        low_memory=False,
        component=components.__getitem__,
    )

    # 2. Time: prior tokens, for the decoder's rounds once per prompt; then the denoising steps.
    transformer = components["autoregressive"]
    sequences = images if planned.name == "autoregressive" else stage.examples_per_step
    tokens = sum(rows * columns for rows, columns in (grids(height, width).preview, grids(height, width).large))
    reading = phases.weight_bytes(transformer) / rates.bytes * -(-sequences // together)
    computing = 2 * plan.count_parameters(transformer) * sequences / (rates.flops * plan.UTILIZATION)
    evaluations = (rl.denoising_steps or request.steps) * images / together
    seconds = tokens * max(reading, computing) + evaluations * velocity.flops / (rates.flops * plan.UTILIZATION)
    weights = planned.weights + others
    found = {**planned.phases, "rounds": weights + planned.optimizer + taken} if planned.phases else {}
    total = None if planned.seconds is None else planned.seconds + stage.steps // rl.updates * seconds
    return replace(planned, weights=weights, phases=found, seconds=total, round_seconds=seconds)


def _component(recipe: Recipe, stage: Stage, name: str, device: torch.device) -> nn.Module:
    """Build a component on the meta device, in the type that computes."""
    with torch.device("meta"):
        module = checkpoint.build_component(name, plan.component_config(recipe, name))
    return module.to(quantization.dtype(stage.lora, device)).requires_grad_(False)
