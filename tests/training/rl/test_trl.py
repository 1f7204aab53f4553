"""The losses of GRPO and DPO, and advantages, against numbers that trl 1.16 gave for the same inputs, in float64.

`trl.json` was recorded from `GRPOTrainer._compute_loss` (loss_type grpo, bounds 0.2 and 0.28, no KL), the branch
normalize_then_sum of its rewards within groups of four, and `DPOTrainer._compute_loss` (sigmoid, and 0.1 of sft), with
models that return the given log-probabilities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from glmkit.config.dpo import AutoregressiveDpo
from glmkit.files import read_json
from glmkit.training.objectives.preference import pair_losses
from glmkit.training.rl import policy
from glmkit.training.rl.advantages import advantages
from glmkit.training.rl.rewards import RewardScore

TRL = read_json(Path(__file__).with_name("trl.json"))


def tensor(of: str, name: str) -> Tensor:
    return torch.tensor(TRL[of][name], dtype=torch.float64)


def test_grpo() -> None:
    log_probs = tensor("grpo", "log_probs").requires_grad_()
    losses, clipped = policy.clipped_loss(log_probs, tensor("grpo", "old"), tensor("grpo", "advantages"), 0.2, 0.28)
    losses.mean().backward()
    assert 0 < clipped.float().mean() < 1
    assert losses.mean().item() == pytest.approx(TRL["grpo"]["loss"], rel=1e-12)
    torch.testing.assert_close(log_probs.grad, tensor("grpo", "gradient"))


def test_advantages() -> None:
    """But for what stands beside the deviation: trl adds 1e-4, where it may not be less than a floor here."""
    weights = dict(zip("ab", TRL["gdpo"]["weights"], strict=True))
    scores = [RewardScore(dict(zip("ab", values, strict=True))) for values in TRL["gdpo"]["rewards"]]
    found = advantages(scores, [0] * 4 + [1] * 4, weights, dict.fromkeys(weights, 1e-9))
    assert found == pytest.approx(np.array(TRL["gdpo"]["advantages"]), rel=1e-3)


def test_dpo() -> None:
    """With means over tokens in place of trl's sums, beta is as many times larger as there are tokens."""
    log_probs, reference = tensor("dpo", "log_probs").requires_grad_(), tensor("dpo", "reference")
    tokens = log_probs.shape[1]
    settings = AutoregressiveDpo(beta=TRL["dpo"]["beta"] * tokens, supervised_weight=TRL["dpo"]["sft_weight"])
    loss = pair_losses(-log_probs.mean(dim=1), -reference.mean(dim=1), settings)["loss"].mean()
    loss.backward()
    assert loss.item() == pytest.approx(TRL["dpo"]["loss"], rel=1e-12)
    torch.testing.assert_close(log_probs.grad, tensor("dpo", "gradient"))
