"""The processes that a launcher (`accelerate launch`, torchrun) started, and what they exchange while they train.

Imports torch only where tensors are exchanged: processes that share nothing but files do without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from glmkit.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

NO_LAUNCHER = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
ONE_OF_SEVERAL = {"ACCELERATE_USE_CPU", "MASTER_ADDR"}  # of accelerate, which has left the others to mpirun
BUCKET_ELEMENTS = 2**24  # gradients are reduced in buckets of at most so many numbers


@dataclass(frozen=True)
class ProcessGroup:
    """One process, number `rank` of `world_size`, number `local_rank` on its machine.

    `sharded`: each process holds a part of the weights (FSDP), not all of them. `patient` is torch's group for waiting
    without a limit: a download, reading a data set, or samples may take one process hours.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    sharded: bool = False
    patient: Any = field(default=None, compare=False)

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """Read RANK, WORLD_SIZE and LOCAL_RANK, which a launcher sets; one process without a launcher.

        UserError for values that no launcher sets: nothing, or not everything, would be done with them.
        """
        if os.environ.keys() >= ONE_OF_SEVERAL and "WORLD_SIZE" not in os.environ:
            raise UserError(
                "accelerate starts several processes on CPUs by mpirun alone, which glmkit does not know",
                found=f"MASTER_ADDR={os.environ['MASTER_ADDR']} without WORLD_SIZE",
                fix="torchrun --nproc-per-node 2 -m glmkit ..., or one process: num_processes: 1",
            )
        values = {name: os.environ.get(name, default) for name, default in NO_LAUNCHER.items()}
        try:
            rank, world_size, local_rank = map(int, values.values())
        except ValueError:
            rank, world_size, local_rank = -1, 0, -1
        if not (0 <= rank < world_size and 0 <= local_rank < world_size):
            found = ", ".join(f"{name}={value}" for name, value in values.items())
            what = "the environment names no process of a launcher"
            raise UserError(what, found=found, fix=f"unset {' '.join(NO_LAUNCHER)}, or start with accelerate launch")
        return cls(rank, world_size, local_rank)

    @property
    def is_main(self) -> bool:
        """Tell whether this is the process that speaks and writes."""
        return self.rank == 0

    def broadcast_parameters(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the weights of the first one, where each holds all of them."""
        if self.world_size == 1:
            return
        import torch.distributed as dist
        from torch.distributed.tensor import DTensor

        for parameter in parameters:
            if not isinstance(parameter, DTensor):
                dist.broadcast(parameter.data, 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient its mean over the processes, in buckets; shards have theirs already.

        The same parameters must have gradients in every process.
        """
        if self.world_size == 1:
            return
        import torch
        import torch.distributed as dist
        from torch.distributed.tensor import DTensor

        gradients = [one.grad for one in parameters if one.grad is not None and not isinstance(one.grad, DTensor)]
        with torch.no_grad():
            while gradients:
                bucket = [gradients.pop()]
                while gradients and sum(one.numel() for one in bucket) + gradients[-1].numel() <= BUCKET_ELEMENTS:
                    bucket.append(gradients.pop())
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(flat)
                flat /= self.world_size
                means = torch.split(flat, [one.numel() for one in bucket])
                for gradient, mean in zip(bucket, means, strict=True):
                    gradient.copy_(mean.view_as(gradient))

    def average_metrics(self, metrics: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """Average the metrics of this process's passes with those of all others; a name counts where it occurs."""
        own = [{name: float(value) for name, value in one.items()} for one in metrics]
        passes = [one for of_rank in self.gather_objects(own) for one in of_rank]
        names = dict.fromkeys(name for one in passes for name in one)
        values = {name: [one[name] for one in passes if name in one] for name in names}
        return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}

    def gather_objects(self, own: T) -> list[T]:
        """Return what each process gives, in the order of ranks; they wait for each other here, however long."""
        if self.world_size == 1:
            return [own]
        import torch.distributed as dist

        self.barrier()
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, own)
        return gathered

    def reduce_sum(self, count: int) -> int:
        """Add up the counts of all processes, which wait for each other here, however long it takes."""
        if self.world_size == 1:
            return count
        import torch
        import torch.distributed as dist

        counts = torch.tensor(count)
        dist.all_reduce(counts, group=self.patient)
        return int(counts)

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        self.reduce_sum(0)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the first process go through the block before the others."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def gather_full_tensors(self, value: Any) -> Any:
        """Return `value` with whole tensors, in the CPU's memory of the first process, for shards anywhere in it.

        The other processes get None in their places. One tensor is gathered at a time.
        """
        from torch.distributed.tensor import DTensor

        if isinstance(value, DTensor):
            whole = value.full_tensor()
            return whole.cpu() if self.is_main else None
        if isinstance(value, dict):
            return {key: self.gather_full_tensors(child) for key, child in value.items()}
        return [self.gather_full_tensors(child) for child in value] if isinstance(value, list) else value


SINGLE_PROCESS = ProcessGroup()
