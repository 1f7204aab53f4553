"""Processes that a launcher (`accelerate launch`, torchrun) started join, and end together.

The first process speaks and writes; what fails in one ends all. Imports torch only where processes join.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.watch import NO_LIMIT, watched
from glmkit.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store

TIMEOUT = timedelta(minutes=30)  # of an exchange that all begin together
SECONDS_FOR_THE_FIRST = 1.0  # seconds for the first that fails to say why: a launcher ends all when one has ended


class EndsAll(RuntimeError):
    """Say why this process cannot go on, while the others wait for it in the middle of an exchange."""


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the process group while this process works; one alone without a launcher.

    The others are silent. When some fail, the error of the first goes on, and the others end with exit code 2 and
    without a word. UserError when a process has gone without one, once on every machine that cannot ask for the others.
    """
    group = ProcessGroup.from_environment()
    if group.world_size == 1:
        yield group
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _take_gpu(device, group)
    if device.type == "cuda" and not dist.is_nccl_available():
        raise UserError("several GPUs need NCCL, which PyTorch has on Linux only", fix="run glmkit without a launcher")
    # Imported while there is a group, it holds the group for ever, with threads that may abort this process at exit.
    import torch._dynamo  # noqa: F401

    store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")
    patient = dist.new_group(timeout=NO_LIMIT, backend="gloo")
    group = ProcessGroup(rank, world_size, group.local_rank, sharded, patient)
    group.barrier()  # connects them: from now on one that ends is missed
    try:
        with contextlib.ExitStack() as stack:
            if not group.is_main:
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
                stack.enter_context(contextlib.redirect_stderr(silence))
            if device.type == "cuda":
                stack.enter_context(watched(group, lambda error: _say_lost(error, store, group)))
            yield group
    except BaseException as error:
        if not _speaks(store, group):
            time.sleep(SECONDS_FOR_THE_FIRST)
            raise SystemExit(2) from None
        if isinstance(error, EndsAll):
            what = "what several processes share has failed in one of them"
            raise UserError(what, found=first_line(error), fix="run the same command again to continue") from error
        if is_lost(error):
            raise _lost(error) from error
        raise
    dist.destroy_process_group()


def _lost(error: BaseException) -> UserError:
    return UserError(
        "another process of this command has ended or does not answer",
        found=first_line(error),
        fix="run the same command again to continue",
    )


def _say_lost(error: BaseException, store: Store, group: ProcessGroup) -> None:
    """Print, past what silences the others, that another process has gone; only one of those that are left does."""
    if _speaks(store, group):
        print(f"error: {_lost(error)}", file=sys.__stderr__, flush=True)


def _take_gpu(device: torch.device, group: ProcessGroup) -> None:
    """UserError when there is no GPU for this process."""
    if device.type != "cuda":
        return
    import torch

    if group.local_rank >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError("every process needs a GPU of its own", found=f"{found} GPUs", fix=f"--num_processes {found}")
    torch.cuda.set_device(device)


def _speaks(store: Store, group: ProcessGroup) -> bool:
    """Tell whether no other process has failed before.

    The store may have been on a machine that is gone, with all that was said there: then one of each other speaks.
    """
    import torch.distributed as dist

    try:
        return store.add("failed", 1) == 1
    except dist.DistError:
        return group.local_rank == 0


def is_lost(error: BaseException) -> bool:
    """Tell whether an exchange failed since another process has ended or does not answer, or this one ends it."""
    import torch.distributed as dist

    return isinstance(error, (EndsAll, dist.DistError)) or (isinstance(error, RuntimeError) and "gloo" in str(error))
