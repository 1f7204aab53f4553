"""The loss of sampled tokens against probabilities and gradients written out by hand, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glmkit.generation.sampling import Sampling, sample
from glmkit.training.rl import policy

LOGITS = np.array([2.0, 1.0, 0.5, -1.0])


def softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max())
    return np.asarray(shares / shares.sum())


CASES = {  # which tokens stay
    "all": (Sampling(1.0, 1.0, 0), [0, 1, 2, 3]),
    "tempered": (Sampling(0.7, 1.0, 4), [0, 1, 2, 3]),
    "top-k": (Sampling(1.3, 1.0, 2), [0, 1]),
    "top-p": (Sampling(1.0, 0.7, 0), [0, 1]),
    "both": (Sampling(2.0, 0.9, 3), [0, 1, 2]),
}


@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_those_of_sampling(case: str) -> None:
    """By hand, and by how often 20,000 samples pick each token."""
    sampling, kept = CASES[case]
    logits = torch.tensor(LOGITS)[None, None]
    tokens = torch.tensor([[0]])
    found = policy.log_distribution(logits, sampling.temperature, policy.kept_tokens(logits, tokens, sampling)).exp()[
        0, 0
    ]
    expected = np.zeros(4)
    expected[kept] = softmax(LOGITS[kept] / sampling.temperature)
    assert found.numpy() == pytest.approx(expected)
    count = 20_000
    picked = sample(torch.tensor(LOGITS).expand(count, 4), (torch.arange(count) + 0.5) / count, sampling)
    assert np.bincount(picked.numpy(), minlength=4) / count == pytest.approx(expected, abs=2 / count)


def test_a_sampled_token_is_always_kept() -> None:
    """Rounding may put it a hair outside; its probability must not be 0."""
    logits = torch.tensor(LOGITS)[None, None].expand(2, 3, 4)
    tokens = torch.tensor([[3, 0, 2], [1, 1, 3]])
    kept = policy.kept_tokens(logits, tokens, Sampling(1.0, 1.0, 2))
    assert kept is not None
    log_probs = policy.log_distribution(logits, 1.0, kept).gather(-1, tokens[..., None])
    assert bool(log_probs.isfinite().all())
    assert [int((row >= 0).sum()) for row in kept.flatten(0, 1)] == [3, 2, 3, 2, 2, 3]


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_expected_reward(case: str) -> None:
    """A bandit: with every token as often as it is likely, the gradient is that of sum(p A), which has a formula."""
    sampling, kept = CASES[case]
    advantages = np.array([1.0, -2.0, 0.5, 3.0])[kept]
    shares = softmax(LOGITS[kept] / sampling.temperature)
    logits = torch.tensor(LOGITS, requires_grad=True)
    rows = logits.expand(len(kept), 1, 4)
    tokens = torch.tensor(kept)[:, None]
    found = policy.log_distribution(rows, sampling.temperature, policy.kept_tokens(rows, tokens, sampling))
    log_probs = found.gather(-1, tokens[..., None])[..., 0]
    losses, clipped = policy.clipped_loss(log_probs, log_probs.detach(), torch.tensor(advantages), 0.2, 0.28)
    assert not clipped.any()
    assert losses.detach().numpy()[:, 0] == pytest.approx(-advantages), "the ratio is exactly 1"
    (losses[:, 0] * torch.tensor(shares)).sum().backward()
    expected = np.zeros(4)
    expected[kept] = -shares * (advantages - shares @ advantages) / sampling.temperature
    assert logits.grad is not None
    assert logits.grad.numpy() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 1.0, -1.2, -1.2),
        (1.5, 1.0, -1.28, 0.0),
        (1.5, -1.0, 1.5, 1.5),
        (0.5, -1.0, 0.8, 0.0),
        (0.5, 1.0, -0.5, -0.5),
    ],
)
def test_a_token_is_clipped_where_it_would_go_on(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    """The loss, and its derivative by the log-probability."""
    log_probs = torch.tensor([[np.log(ratio)]], requires_grad=True)
    losses, clipped = policy.clipped_loss(
        log_probs, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([advantage]), 0.2, 0.28
    )
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert log_probs.grad is not None
    assert log_probs.grad.item() == pytest.approx(gradient)
    assert clipped.item() == (gradient == 0)


def test_entropy_and_divergence_are_those_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 3, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    first, second = (torch.distributions.Categorical(logits=logits) for logits in (one, other))
    logs = one.log_softmax(-1), other.log_softmax(-1)
    torch.testing.assert_close(policy.entropy(logs[0]), first.entropy())
    torch.testing.assert_close(policy.divergence(*logs), torch.distributions.kl_divergence(first, second))
    without = torch.tensor([[[0.0, -torch.inf]]])
    assert policy.entropy(without).item() == 0
