"""Where a stage of a run writes, and where its random numbers come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup


@dataclass(frozen=True)
class StageContext:
    """The surroundings of a stage.

    `folder` of the run, `name` of the stage, the seed of everything random in it, the device, and the processes that
    train together, of which the first one writes.
    """

    folder: Path
    name: str
    seed: int
    device: torch.device
    group: ProcessGroup = SINGLE_PROCESS

    @property
    def state(self) -> Path:
        """Return the file with the resumable state."""
        return self.folder / f"{self.name}.state.pt"

    @property
    def log(self) -> Path:
        """Return the file with the losses."""
        return self.folder / f"{self.name}.log.jsonl"

    @property
    def result(self) -> Path:
        """Return the file that is there when the stage is done."""
        return self.folder / f"{self.name}.json"

    @property
    def adapter(self) -> Path:
        """Return the folder with the stage's adapter."""
        return self.folder / "adapter" / self.name

    def checkpoint(self, step: int) -> Path:
        """Return the folder with the stage's adapter after so many steps."""
        return self.folder / "checkpoints" / self.name / f"{step:06}"


def step_generator(context: StageContext, step: int, micro_batch: int = 0) -> torch.Generator:
    """Make the generator of one micro-batch; none shares its seed with another."""
    seed = int(np.random.SeedSequence([context.seed, step, micro_batch]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(context.device).manual_seed(seed)
