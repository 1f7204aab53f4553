"""Processes that train one model together, started by `accelerate launch` or torchrun, each on a device of its own.

A training step is that of one process, whatever their number: its batch is divided as the recipe says, every random
number is the one that a single process samples, and each process computes a share. If they are at most as many as the
micro-batches of the step, each takes some of these whole; if they are more, several share the samples of one.
Gradients are averaged once, after the last micro-batch. Each process holds all weights (as in DDP), or with
`--use_fsdp` a shard (`fsdp`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from glmkit.config import STAGES, Stage
from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError

MULTI_GPU = "distributed_type: MULTI_GPU, or FSDP with fsdp_version: 2"
# What accelerate's options and config files put into the environment: what has no other meaning here, and what to say.
ACCELERATE = {
    "ACCELERATE_USE_DEEPSPEED": (("false",), MULTI_GPU),
    "ACCELERATE_USE_MEGATRON_LM": (("false",), MULTI_GPU),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (("false",), "leave out parallelism_config"),
    "ACCELERATE_MIXED_PRECISION": (("no", "bf16"), "mixed_precision: bf16, in which GPUs that have it compute anyway"),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), "dynamo_backend: 'NO', and STAGE.compile=true in the recipe"),
}


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass: micro-batch `number` of the step, or some of its `rows` alone."""

    number: int
    indices: Sequence[int]
    rows: slice | None = None


def passes_of(batch: Sequence[int], accumulation_steps: int, group: ProcessGroup) -> list[Pass]:
    """Return what this process does of one step.

    All do equally many passes of equal size, so that gradients and losses are the means over all passes.
    `accumulation_steps` must be a multiple or a divisor of the group's size.
    """
    size = len(batch) // accumulation_steps
    micro_batches = [Pass(start // size, batch[start : start + size]) for start in range(0, len(batch), size)]
    if group.world_size <= accumulation_steps:
        count = len(micro_batches) // group.world_size
        return micro_batches[group.rank * count : (group.rank + 1) * count]
    sharing = group.world_size // accumulation_steps
    number, position = divmod(group.rank, sharing)
    samples = size // sharing
    return [Pass(number, micro_batches[number].indices, slice(position * samples, (position + 1) * samples))]


def check_launcher() -> None:
    """Raise UserError for options of accelerate that recipes have in its place, or nothing here has."""
    for name, (meant, fix) in ACCELERATE.items():
        if (found := os.environ.get(name, meant[0])).lower() not in meant:
            raise UserError("training takes no such option of accelerate", found=f"{name}={found}", fix=fix)


def check(stages: Mapping[str, Stage], group: ProcessGroup) -> None:
    """Raise UserError when the processes cannot share the steps of stages so that they stay those of one process."""
    if group.world_size == 1:
        return
    for name, stage in stages.items():
        if name not in STAGES:
            raise UserError(
                f"{name} learns in one process", found=f"{group.world_size} processes", fix="run glmkit itself"
            )
        if stage.accumulation_steps % group.world_size == 0:
            continue
        whole = _needs_whole(stage)
        if group.world_size % stage.accumulation_steps or stage.global_batch_size % group.world_size or whole:
            raise UserError(
                f"{name}: {group.world_size} processes cannot share the micro-batches of one step"
                + (f", and {whole} needs them whole" if whole else ""),
                found=f"global_batch_size: {stage.global_batch_size}, "
                f"micro_batch_size: {stage.global_batch_size // stage.accumulation_steps}",
                fix=_divisible(name, stage, group.world_size),
            )


def _needs_whole(stage: Stage) -> str | None:
    """Return what in a stage has no equal parts of a micro-batch."""
    if stage.lora is not None and stage.lora.dropout:
        return "lora.dropout"
    return next((key for key in stage.whole_batch_keys if getattr(stage, key, False)), None)


def _divisible(name: str, stage: Stage, count: int) -> str:
    """Return what to type for a micro-batch per process, or a few."""
    batch = -(-stage.global_batch_size // count) * count
    possible = [times for times in range(count, batch + 1, count) if batch % times == 0]
    accumulation_steps = next((times for times in possible if times >= stage.accumulation_steps), possible[-1])
    changed = f"{name}.global_batch_size={batch} " if batch != stage.global_batch_size else ""
    return f"{changed}{name}.micro_batch_size={batch // accumulation_steps}"


def shard_like(like: Tensor, whole: Tensor) -> Tensor:
    """Return the part of `whole` that this process holds of `like`; `whole` itself where each holds everything."""
    if not isinstance(like, DTensor):
        return whole
    # Every process has read the whole tensor: nothing is sent.
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
