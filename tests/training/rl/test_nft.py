"""The loss of DiffusionNFT against its formula by hand, and what it makes of a sample whose best velocity is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from glmkit.generation import flow_matching as flow
from glmkit.training.rl.nft import goodness, nft_loss

SIGMA = 0.4
SHAPE = (3, 2, 2, 2)


def tensors(count: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=draw, dtype=torch.float64) for _ in range(count)]


def sigmas() -> Tensor:
    return torch.full((SHAPE[0],), SIGMA, dtype=torch.float64)


def test_goodness() -> None:
    assert goodness(torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0]), 5.0).tolist() == [0, 0, 0.5, 0.75, 1]


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.0])
def test_the_loss_is_the_formula(beta: float) -> None:
    velocity, old, clean, noise = tensors(4)
    noisy, r = flow.add_noise(clean, noise, sigmas()), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    found = nft_loss(velocity, old, noisy, clean, sigmas(), r, beta)
    v, v_old, x, x_s = (one.numpy() for one in (velocity, old, clean, noisy))
    for row in range(SHAPE[0]):
        total = 0.0
        for share, other in ((r[row], (1 - beta) * v_old + beta * v), (1 - r[row], (1 + beta) * v_old - beta * v)):
            error = x_s[row] - SIGMA * other[row] - x[row]
            total += share * np.mean(error**2) / np.mean(np.abs(error)) / beta
        assert found[row].item() == pytest.approx(float(total), rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.0])
def test_when_a_round_begins_it_is_signed_flow_matching(beta: float) -> None:
    """At the old velocity, whatever beta is, the gradient is 2 r - 1 times that of the clean latents' error."""
    old, clean, noise = tensors(3)
    noisy, r = flow.add_noise(clean, noise, sigmas()), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    velocity = old.clone().requires_grad_(True)
    nft_loss(velocity, old, noisy, clean, sigmas(), r, beta).sum().backward()
    plain = old.clone().requires_grad_(True)
    error = noisy - SIGMA * plain - clean
    weighted = error.square().mean(dim=(1, 2, 3)) / error.detach().abs().mean(dim=(1, 2, 3))
    ((2 * r - 1) * weighted).sum().backward()
    assert velocity.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(velocity.grad, plain.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("beta", [0.5])
def test_the_best_velocity_of_a_sample(beta: float) -> None:
    """A good image pulls 1 / beta of the way to itself, a bad one pushes as far away, a middling one does nothing."""
    old, clean, noise = tensors(3)
    noisy, r = flow.add_noise(clean, noise, sigmas()), torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    velocity = old.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([velocity], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        nft_loss(velocity, old, noisy, clean, sigmas(), r, beta).sum().backward()
        optimizer.step()
    way = (flow.velocity_target(clean, noise) - old) / beta
    expected = old + torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)[:, None, None, None] * way
    torch.testing.assert_close(velocity.detach(), expected, rtol=0, atol=0.02)
