"""Processes that train one model together, started by `accelerate launch` or torchrun, each on a device of its own.

A step is that of one process, whatever their number: its batch is divided as the recipe says, every random number is
drawn as one process draws it, and each process computes a share. If they are at most as many as the micro-batches of a
step, each takes some of these whole; if they are more, several share the rows of one. Gradients are averaged once,
after the last micro-batch. Each process holds all weights (as in DDP), or with `--use_fsdp` a part (`sharding`).

The first process speaks and writes; what fails in one ends all.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from glmkit.config import EDITING, Recipe, Stage
from glmkit.errors import UserError
from glmkit.generation.shares import Share

TIMEOUT = timedelta(minutes=30)  # of one exchange: samples and checks of saved weights are made while others wait
PATIENCE = 1.0  # seconds for the first that fails to say why: a launcher ends all when one has ended
TOGETHER = 2**24  # numbers of gradients that are exchanged at once


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass: micro-batch `number` of the step, or some of its `rows` alone."""

    number: int
    indices: Sequence[int]
    rows: slice | None = None


@dataclass(frozen=True)
class Team:
    """This process, number `index` of `count`; `sharded`: each holds a part of the weights, not all of them."""

    index: int = 0
    count: int = 1
    sharded: bool = False

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def passes(self, batch: Sequence[int], accumulation_steps: int) -> list[Pass]:
        """What this process does of a step; all do equally many passes of equal size, so that gradients and losses
        are the means over all passes. `accumulation_steps` must be a multiple or a divisor of
        `count`."""
        size = len(batch) // accumulation_steps
        whole = [Pass(start // size, batch[start : start + size]) for start in range(0, len(batch), size)]
        if self.count <= accumulation_steps:
            own = len(whole) // self.count
            return whole[self.index * own : (self.index + 1) * own]
        sharing = self.count // accumulation_steps
        number, place = divmod(self.index, sharing)
        rows = size // sharing
        return [Pass(number, whole[number].indices, slice(place * rows, (place + 1) * rows))]

    @torch.no_grad()
    def agree(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give all the weights of the first process, where each holds all of them."""
        if self.count > 1:
            for parameter in parameters:
                if not isinstance(parameter, DTensor):
                    dist.broadcast(parameter.data, 0)

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient its mean over the processes; shards have theirs already. The passes of a step are of one
        kind, so the same parameters have gradients everywhere."""
        if self.count == 1:
            return
        gradients = [one.grad for one in parameters if one.grad is not None and not isinstance(one.grad, DTensor)]
        while gradients:
            some = [gradients.pop()]
            while gradients and sum(map(Tensor.numel, some)) + gradients[-1].numel() <= TOGETHER:
                some.append(gradients.pop())
            flat = torch.cat([gradient.flatten() for gradient in some])
            dist.all_reduce(flat)
            flat /= self.count
            for gradient, mean in zip(some, flat.split([one.numel() for one in some]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def means(self, shown: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """Of what there is to show of the passes of a step, this process's given, the means over those of all."""
        passes = [{name: float(value) for name, value in one.items()} for one in shown]
        if self.count > 1:
            told: list[list[dict[str, float]]] = [[] for _ in range(self.count)]
            dist.all_gather_object(told, passes)
            passes = [one for own in told for one in own]
        names = dict.fromkeys(name for one in passes for name in one)
        values = {name: [one[name] for one in passes if name in one] for name in names}
        return {name: sum(own) / len(own) for name, own in values.items()}

    def total(self, count: int) -> int:
        """The sum over the processes; nobody goes on before all have come here."""
        if self.count == 1:
            return count
        counts = torch.tensor(count)
        dist.all_reduce(counts)
        return int(counts)

    def wait(self) -> None:
        """Until all have come here."""
        self.total(0)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The others do what stands inside once the first process has done it."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def gathered(self, value: Any) -> Any:
        """`value` with whole tensors, in the CPU's memory of the first process, for shards anywhere in it; the others
        get None for them. One tensor at a time."""
        if isinstance(value, DTensor):
            whole = value.full_tensor()
            return whole.cpu() if self.is_main else None
        if isinstance(value, dict):
            return {key: self.gathered(child) for key, child in value.items()}
        return [self.gathered(child) for child in value] if isinstance(value, list) else value


ALONE = Team()


def check(recipe: Recipe, team: Team) -> None:
    """UserError when the team cannot share the steps of a recipe, such that they remain those of one process."""
    if team.count == 1:
        return
    for name, stage in recipe.stages.items():
        if name not in EDITING:
            raise UserError(f"{name} learns in one process", found=f"{team.count} processes", fix="run glmkit itself")
        if stage.accumulation_steps % team.count == 0:
            continue
        whole = _needs_whole(stage)
        if team.count % stage.accumulation_steps or stage.global_batch_size % team.count or whole:
            raise UserError(
                f"{name}: {team.count} processes cannot share the micro-batches of a step"
                + (f", and {whole} needs them whole" if whole else ""),
                found=f"global_batch_size: {stage.global_batch_size}, "
                f"micro_batch_size: {stage.global_batch_size // stage.accumulation_steps}",
                fix=_divisible(name, stage, team.count),
            )


def _needs_whole(stage: Stage) -> str | None:
    """What in a stage has no equal parts of a micro-batch."""
    if stage.lora is not None and stage.lora.dropout:
        return "lora.dropout"
    unequal = ("equal_pixels", "pack", "sign_weight", "order_weight")
    return next((key for key in unequal if getattr(stage, key, False)), None)


def _divisible(name: str, stage: Stage, count: int) -> str:
    """What to type for a micro-batch a process, or a few."""
    batch = -(-stage.global_batch_size // count) * count
    possible = [times for times in range(count, batch + 1, count) if batch % times == 0]
    accumulation_steps = next((times for times in possible if times >= stage.accumulation_steps), possible[-1])
    changed = f"{name}.global_batch_size={batch} " if batch != stage.global_batch_size else ""
    return f"{changed}{name}.micro_batch_size={batch // accumulation_steps}"


def sharded_as(like: Tensor, whole: Tensor) -> Tensor:
    """The part of `whole` that this process holds of `like`; `whole` itself where each holds everything."""
    if not isinstance(like, DTensor):
        return whole
    # Every process has read the whole tensor: nothing is sent.
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[Team]:
    """The team of this process while it trains; one alone without a launcher.

    The others are silent. When some fail, the error of the first goes on, and the others end with exit code 2 and
    without a word. UserError when a process has gone without one.
    """
    share = Share.of_environment()
    if share.count == 1:
        yield ALONE
        return
    _take(device, share)
    # Imported while there is a group, it holds the group for ever, with threads that may abort this process at exit.
    import torch._dynamo  # noqa: F401

    store, index, count = next(rendezvous("env://", timeout=TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=index, world_size=count, timeout=TIMEOUT)
    team = Team(index, count, os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1"))
    team.wait()  # connects them: from now on one that ends is missed
    try:
        with contextlib.ExitStack() as stack:
            if not team.is_main:
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
                stack.enter_context(contextlib.redirect_stderr(silence))
            yield team
    except BaseException as error:
        if not _is_first(store):
            time.sleep(PATIENCE)
            raise SystemExit(2) from None
        if _is_lost(error):
            raise UserError(
                "a process of this training has ended or does not answer",
                found=str(error).splitlines()[0],
                fix="run the same command again to continue",
            ) from error
        raise
    dist.destroy_process_group()


def _take(device: torch.device, share: Share) -> None:
    """UserError when there is no GPU for this process."""
    if device.type != "cuda":
        return
    if share.local >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError("every process needs a GPU of its own", found=f"{found} GPUs", fix=f"--num_processes {found}")
    torch.cuda.set_device(device)


def _is_first(store: Store) -> bool:
    """Whether no other process has failed before; the store may have been in one that has."""
    try:
        return store.add("failed", 1) == 1
    except dist.DistError:
        return False


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
