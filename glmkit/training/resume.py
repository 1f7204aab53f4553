"""The resumable state of a loop: resumed training equals training that was never interrupted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from glmkit.errors import UserError
from glmkit.files import atomic_path
from glmkit.training.distributed import shard_like

if TYPE_CHECKING:
    from glmkit.training.loop import Loop


def save(loop: Loop) -> None:
    """Write step, weights, optimizers, averages and seconds of a loop; in the first process, with whole tensors."""
    state = {
        "step": loop.step,
        "model": _weights(loop),
        "optimizers": [optimizer.state_dict() for optimizer in loop.optimizers]
        if loop.goes_on
        else None,  # not needed after the last step
        "averaged": loop.averaged.shadow if loop.averaged else None,
        "objective": loop.objective.state(),
        "seconds": loop.seconds,
    }
    state = loop.context.group.gather_full_tensors(state)
    if loop.context.group.is_main:
        with atomic_path(loop.context.state) as temporary:
            torch.save(state, temporary)


def load(loop: Loop) -> None:
    """Read the state of a loop that has none yet; UserError when the file is not a state of this training."""
    path, name = loop.context.state, loop.context.name
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        _load(loop)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch raises errors of every kind for a file that is cut, empty or another's
        found = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        fix = f"delete it, and {name} begins again"
        raise UserError(f"{path} is not a state of this training", found=found, fix=fix) from error


def _load(loop: Loop) -> None:
    context = loop.context
    device = "cpu" if context.group.sharded else context.device  # whole, it may be too large for a GPU
    state = torch.load(context.state, map_location=device, weights_only=True)
    loop.step, seconds = state["step"], float(state["seconds"])
    if type(loop.step) is not int or loop.step < 0 or not math.isfinite(seconds):
        raise ValueError(f"step {loop.step!r} after {seconds} seconds")
    if loop.step > loop.stage.steps:
        what = f"{context.name} has taken {loop.step} steps already"
        raise UserError(what, found=f"steps: {loop.stage.steps}", fix=f"{context.name}.steps={2 * loop.step}")
    _load_weights(loop, state["model"])
    if loop.averaged:
        both = zip(loop.parameters, state["averaged"], strict=True)
        loop.averaged.shadow = [shard_like(parameter, _fitting(parameter, saved)) for parameter, saved in both]
    loop.objective.load_state(state.get("objective", {}))  # nothing in those from before rewards were learnt from
    loop.started -= seconds
    if loop.goes_on and state["optimizers"] is not None:
        for optimizer, saved in zip(loop.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(_sharded_state(optimizer, saved))


def _fitting(parameter: Tensor, saved: Tensor) -> Tensor:
    if saved.shape != parameter.shape:
        raise ValueError(f"shape {tuple(saved.shape)} for {tuple(parameter.shape)}")
    return saved


def _weights(loop: Loop) -> dict[str, Tensor]:
    """Return what a state has to hold: an adapter's base does not change, and is too large to write again and again."""
    trained = loop.objective.trained
    if loop.stage.lora is None:
        return trained.state_dict()
    return {name: value.detach() for name, value in trained.named_parameters() if value.requires_grad}


@torch.no_grad()
def _load_weights(loop: Loop, saved: dict[str, Tensor]) -> None:
    current = _weights(loop)
    shards = {name: shard_like(value, _fitting(value, saved[name])) for name, value in current.items()}
    if loop.stage.lora is None:
        loop.objective.trained.load_state_dict(shards)
        return
    for name, value in current.items():
        value.copy_(shards[name])


def _sharded_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer that was saved whole, as this process holds its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            name: shard_like(parameters[number], value)
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in saved["state"].items()
    }
    return {**saved, "state": state}
