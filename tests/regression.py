"""A stand-in for what a stage learns: a linear map, trained by the one loop within milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glmkit.config import DecoderStage
from glmkit.training.context import StageContext
from glmkit.training.data import Batches
from glmkit.training.loop import Loop
from glmkit.training.objectives import Objective

SIZES = [(32, 32)] * 10


def stage(**changes: Any) -> DecoderStage:
    values: dict[str, Any] = {"steps": 8, "global_batch_size": 4, "learning_rate": 0.05, **changes}
    return DecoderStage(**values)


class Regression(Objective):
    """A stand-in objective: a linear map from fixed inputs, with noise on its input if asked, and dropout."""

    def __init__(self, noise: float = 0.0, dropout: float = 0.0, fail_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.trained: nn.Module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(dropout), nn.Linear(4, 1))
        draw = torch.Generator().manual_seed(1)
        self.inputs, self.targets = torch.randn(10, 3, generator=draw), torch.randn(10, 1, generator=draw)
        self.noise, self.fail_at, self.steps, self.modes = noise, fail_at, 0, set[bool]()
        self.finished = 0

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.modes.add(self.trained.training)
        inputs = self.inputs[list(indices)]
        inputs = inputs + self.noise * torch.randn(inputs.shape, generator=generator)
        error = (self.trained(inputs) - self.targets[list(indices)]).square().mean()
        return error * (float("nan") if self.fail_at == self.steps else 1), {"error": error.detach()}

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        return {"loss": (self.trained(self.inputs) - self.targets).square().mean().item()}

    def after_step(self, step: int, _: torch.Generator) -> None:
        self.steps = step

    def finish(self) -> None:
        self.finished += 1

    def compile(self) -> None:
        raise AssertionError


def loop_in(folder: Path, objective: Regression, **changes: Any) -> Loop:
    place = StageContext(folder, "decoder", 3, torch.device("cpu"))
    settings = stage(**changes)
    return Loop(objective, Batches(SIZES, settings.global_batch_size, place.seed), settings, place)


def weights(objective: Regression) -> list[Tensor]:
    return [value.clone() for value in objective.trained.state_dict().values()]


def equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
