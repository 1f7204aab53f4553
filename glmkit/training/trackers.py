"""Where losses are shown while a stage trains: TensorBoard where it is installed, Weights & Biases where a recipe asks.

Both get the lines of the stage's log file, which remains the record.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Tracker = Callable[[Mapping[str, Any]], None]


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the losses of one line of a log as `train/...` or `validation/...`."""
    kind, losses = ("validation", line["validation"]) if "validation" in line else ("train", line)
    return {f"{kind}/{name}": value for name, value in losses.items() if name not in ("step", "time")}


def trackers(folder: Path, stage: str, wandb_project: str | None) -> list[Tracker]:
    """Return what listens to the log of a stage. Steps that a resumed run takes again are written again, alike."""
    listeners = []
    if importlib.util.find_spec("tensorboard"):
        listeners.append(_tensorboard(folder / "tensorboard" / stage))
    if wandb_project is not None:
        listeners.append(_wandb(folder, stage, wandb_project))
    return listeners


def _tensorboard(folder: Path) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def track(line: Mapping[str, Any]) -> None:
        for name, value in scalars(line).items():
            writer.add_scalar(name, value, line["step"])
        writer.flush()

    return track


def _wandb(folder: Path, stage: str, project: str) -> Tracker:
    wandb = importlib.import_module("wandb")  # an option of users, no requirement of ours
    # The same command continues the same run.
    name = hashlib.sha256(f"{folder.resolve()} {stage}".encode()).hexdigest()[:16]
    run = wandb.init(project=project, name=f"{folder.name} {stage}", id=name, resume="allow", dir=str(folder))

    def track(line: Mapping[str, Any]) -> None:
        run.log(scalars(line), step=line["step"])

    return track
