"""How weights change: the schedule of the learning rate, the optimizers, and the average of the weights (EMA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glmkit.config import Stage
from glmkit.training import quantization
from glmkit.training.muon import Muon

REWARD_EPS = 1e-10  # gradients from rewards may be as small as Adam's default of 1e-8, which would shorten every step


def learning_rate(step: int, stage: Stage) -> float:
    """Warm up linearly, stay, decay linearly to zero over the last `decay_fraction` of the steps."""
    warmup = min(1.0, (step + 1) / stage.warmup_steps) if stage.warmup_steps else 1.0
    decay_steps = max(1, round(stage.steps * stage.decay_fraction))
    return stage.learning_rate * warmup * min(1.0, (stage.steps - step) / decay_steps)


def optimizers(trained: nn.Module, stage: Stage, device: torch.device) -> list[torch.optim.Optimizer]:
    """Make AdamW for every parameter that requires a gradient, without weight decay for vectors; or Muon for some.

    Muon takes the linear matrices of numbered layers, the inside of a network; both share one learning rate.
    """
    matrices: list[Tensor] = []
    if stage.optimizer == "muon":
        matrices = [linear.weight for _, linear in quantization.layer_matrices(trained) if linear.weight.requires_grad]
    taken = {id(parameter) for parameter in matrices}
    others = [one for one in trained.parameters() if one.requires_grad and id(one) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in others if parameter.ndim > 1]},
        {"params": [parameter for parameter in others if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = _adamw_or_prodigy(groups, stage, device)
    if not matrices:
        return [adamw]
    return [adamw, Muon(matrices, lr=stage.learning_rate, weight_decay=stage.weight_decay)]


def _adamw_or_prodigy(groups: list[dict[str, Any]], stage: Stage, device: torch.device) -> torch.optim.Optimizer:
    """Make AdamW, its moments in 8 bits if asked (arXiv:2110.02861), or Prodigy with its rate (arXiv:2306.06101)."""
    settings: dict[str, Any] = {
        "lr": stage.learning_rate,
        "betas": (0.9, stage.beta2),
        "weight_decay": stage.weight_decay,
    }
    if stage.learns_from_rewards and stage.optimizer != "prodigy":
        settings["eps"] = REWARD_EPS
    if stage.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        adamw8bit: torch.optim.Optimizer = AdamW8bit(groups, **settings)
        return adamw8bit
    if stage.optimizer == "prodigy":
        from prodigyopt import Prodigy

        prodigy: torch.optim.Optimizer = Prodigy([group for group in groups if group["params"]], **settings)
        return prodigy
    return torch.optim.AdamW(groups, **settings, fused=device.type == "cuda")


class Averaged:
    """Exponential moving average of the trained parameters (Polyak averaging), with a warm-up of the decay."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    def update(self, step: int) -> None:
        """Move the averages towards the parameters after one step."""
        self.follow(min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Keep the share `decay` of the averages, and take the rest from the parameters."""
        torch._foreach_lerp_(self.shadow, [parameter.detach() for parameter in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the current values; calling it twice changes nothing."""
        for parameter, shadow in zip(self.parameters, self.shadow, strict=True):
            current = parameter.detach().clone()
            parameter.copy_(shadow)
            shadow.copy_(current)
