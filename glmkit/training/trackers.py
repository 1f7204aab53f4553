"""Where losses are shown while a stage trains: TensorBoard where it is installed, Weights & Biases where a recipe asks.

Both get the rows of the stage's log file, which remains the record.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Tracker = Callable[[Mapping[str, Any]], None]


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The losses of one row of a log as `train/...` or `validation/...`."""
    kind, losses = ("validation", row["validation"]) if "validation" in row else ("train", row)
    return {f"{kind}/{name}": value for name, value in losses.items() if name not in ("step", "time")}


def trackers(folder: Path, stage: str, wandb_project: str | None) -> list[Tracker]:
    """What listens to the log of a stage. Steps that a resumed run does again are written again, alike."""
    found = []
    if importlib.util.find_spec("tensorboard"):
        found.append(_tensorboard(folder / "tensorboard" / stage))
    if wandb_project is not None:
        found.append(_wandb(folder, stage, wandb_project))
    return found


def _tensorboard(folder: Path) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def track(row: Mapping[str, Any]) -> None:
        for name, value in scalars(row).items():
            writer.add_scalar(name, value, row["step"])
        writer.flush()

    return track


def _wandb(folder: Path, stage: str, project: str) -> Tracker:
    wandb = importlib.import_module("wandb")  # an option of users, no requirement of ours
    # The same command continues the same run.
    name = hashlib.sha256(f"{folder.resolve()} {stage}".encode()).hexdigest()[:16]
    run = wandb.init(project=project, name=f"{folder.name} {stage}", id=name, resume="allow", dir=str(folder))

    def track(row: Mapping[str, Any]) -> None:
        run.log(scalars(row), step=row["step"])

    return track
