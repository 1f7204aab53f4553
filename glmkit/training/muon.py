"""Muon: momentum whose update is made orthogonal, one step of the same size in every direction of a weight matrix.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with updates as large as AdamW's default ones (Liu et al. 2025,
arXiv:2502.16982). The arithmetic is that of `torch.optim.Muon`, which takes the matrices one after the other and so
spends its time on starting small kernels; here all matrices of one shape go through together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from glmkit.models.devices import has_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS = 0.2  # of an update's entries, for a learning rate of 1
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions; Nesterov momentum, decoupled weight decay. Same state as torch.optim.Muon."""

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        if any(parameter.ndim != 2 for group in self.param_groups for parameter in group["params"]):
            raise ValueError("Muon takes matrices only")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step for every parameter that has a gradient."""
        loss = closure() if closure else None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch.stack(gradients).lerp_(torch.stack(momenta), group["momentum"])
        length = group["lr"] * RMS * max(parameters[0].shape) ** 0.5
        update = orthogonal(ahead).to(parameters[0].dtype).mul_(-length)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(update.unbind()))


def orthogonal(matrices: Tensor) -> Tensor:
    """B R C to the nearest matrices with all singular values near 1, in bfloat16, by Newton-Schulz iterations.

    A GPU without bfloat16 computes in float32.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16 if has_bfloat16(matrices.device) else torch.float32)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
