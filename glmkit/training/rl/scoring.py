"""Score images by rewards, one at a time: here, or in processes of their own by those that hold a core for long.

Each such reward takes 20 to 40 ms of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glmkit.errors import UserError, first_line
from glmkit.evaluation.named_files import find

if TYPE_CHECKING:
    from glmkit.training.rl.rewards import Reward, RewardSample


@dataclass(frozen=True)
class Failed:
    """Say why a reward could not score an image."""

    reason: str


Found = float | Failed | None  # a reward; None where it says nothing of the prompt


def ask(reward: Reward, sample: RewardSample) -> Found:
    """Have one reward score an image. A UserError concerns all images; whatever else goes wrong concerns this one."""
    try:
        value = reward.score(sample)
    except UserError:
        raise
    except Exception as error:
        return Failed(first_line(error))
    if value is not None and not math.isfinite(value):
        return Failed(f"{value} is no reward")
    return None if value is None else float(value)


def scorer(*given: str) -> Callable[[RewardSample], dict[str, Found]]:
    """Load rewards, given as NAME=MODULE[:WHAT], and return what has an image scored by each: a process's function."""
    rewards: dict[str, Reward] = {}
    for name, _, where in (one.partition("=") for one in given):
        module, what = find(where)
        rewards[name] = module.load(what, "cpu")
    return lambda sample: {name: ask(reward, sample) for name, reward in rewards.items()}
