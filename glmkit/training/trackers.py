"""Where a stage is watched while it trains: TensorBoard where it is installed, Weights & Biases where a recipe asks.

Both get the losses of the stage's log file, which remains the record, and the sample images.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from glmkit.training.samples import Sample


class Tracker(Protocol):
    """Listens to one stage. Steps that a resumed run takes again are logged again, alike."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Take the losses of one line of the log."""

    def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Take the sample images of one step."""


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the losses of one line of a log as `train/...` or `validation/...`."""
    kind, losses = ("validation", line["validation"]) if "validation" in line else ("train", line)
    return {f"{kind}/{name}": value for name, value in losses.items() if name not in ("step", "time")}


def trackers(folder: Path, stage: str, wandb_project: str | None) -> list[Tracker]:
    """Return what listens to a stage of the run in `folder`."""
    listeners: list[Tracker] = []
    if importlib.util.find_spec("tensorboard"):
        listeners.append(TensorBoard(folder / "tensorboard" / stage))
    if wandb_project is not None:
        listeners.append(WeightsAndBiases(folder, stage, wandb_project))
    return listeners


class TensorBoard:
    """Writes event files into a folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def log(self, line: Mapping[str, Any]) -> None:
        """Write the losses of one line of the log."""
        for name, value in scalars(line).items():
            self.writer.add_scalar(name, value, line["step"])
        self.writer.flush()

    def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Write each image under `samples/NUMBER`, and once under `samples/NUMBER/prompt` what was asked for."""
        for number, sample in enumerate(samples):
            if step == 0:
                self.writer.add_text(f"samples/{number}/prompt", sample.prompt, step)
            self.writer.add_image(f"samples/{number}", np.asarray(sample.image), step, dataformats="HWC")
        self.writer.flush()


class WeightsAndBiases:
    """Sends to a project of Weights & Biases; every stage of a run folder is a run there."""

    def __init__(self, folder: Path, stage: str, project: str) -> None:
        self.wandb = importlib.import_module("wandb")  # an option of users, no requirement of ours
        # The same command continues the same run.
        name = hashlib.sha256(f"{folder.resolve()} {stage}".encode()).hexdigest()[:16]
        self.run = self.wandb.init(
            project=project, name=f"{folder.name} {stage}", id=name, resume="allow", dir=str(folder)
        )

    def log(self, line: Mapping[str, Any]) -> None:
        """Send the losses of one line of the log."""
        self.run.log(scalars(line), step=line["step"])

    def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Send each image as `samples/NUMBER`, with its prompt as the caption."""
        images = {
            f"samples/{number}": self.wandb.Image(sample.image, caption=sample.prompt)
            for number, sample in enumerate(samples)
        }
        self.run.log(images, step=step)
