"""Advantages against a formula written out by hand."""

from __future__ import annotations

import math
from statistics import mean, stdev

import numpy as np
import pytest

from glmkit.training.rl.advantages import advantages
from glmkit.training.rl.rewards import RewardScore

WEIGHTS, MIN_STDS = {"text": 1.0, "content": 0.5}, {"text": 0.05, "content": 0.05}


def scores(*parts: tuple[float, float]) -> list[RewardScore]:
    return [RewardScore({"text": text, "content": content}) for text, content in parts]


def test_each_reward_is_normalised_within_its_group() -> None:
    text, content, other = [0.2, 0.9, 0.4], [1.0, 0.5, 0.7], [0.6, 0.1]
    every = scores(*zip(text, content, strict=True), *((value, 0.3) for value in other))
    expected = [
        (a - mean(text)) / stdev(text) + 0.5 * (b - mean(content)) / stdev(content)
        for a, b in zip(text, content, strict=True)
    ]
    expected += [(a - mean(other)) / stdev(other) for a in other]
    assert advantages(every, "aaabb", WEIGHTS, MIN_STDS) == pytest.approx(expected)


def test_the_order_of_groups_does_not_matter() -> None:
    every = scores((0.2, 1), (0.9, 0.5), (0.1, 0.1), (0.3, 0.9))
    apart = advantages(every, [0, 0, 1, 1], WEIGHTS, MIN_STDS)
    mixed = advantages([every[index] for index in (2, 0, 3, 1)], [1, 0, 1, 0], WEIGHTS, MIN_STDS)
    assert mixed.tolist() == [apart[index] for index in (2, 0, 3, 1)]


def test_last_digits_mean_nothing() -> None:
    nearly_equal = advantages(scores((0.9, 1), (0.9 + 1e-9, 1)), "aa", WEIGHTS, MIN_STDS)
    assert np.abs(nearly_equal).max() < 1e-7


def test_one_reward_cannot_exceed_the_bound() -> None:
    values = [0.0] * 99 + [1.0]
    found = advantages(scores(*((value, 1) for value in values)), ["a"] * 100, {"text": 1.0}, MIN_STDS)
    assert found[-1] == 5.0 < (1 - mean(values)) / stdev(values)


def test_what_failed_leaves_its_group() -> None:
    failed = RewardScore(error="OCR: it hung")
    alone, pair = scores((0.5, 1)), scores((0.2, 1), (0.8, 1))
    found = advantages([*pair, failed, failed, *alone], "aaabb", WEIGHTS, MIN_STDS)
    assert found[:2].tolist() == advantages(pair, "aa", WEIGHTS, MIN_STDS).tolist()
    assert all(map(math.isnan, found[2:]))


def test_a_reward_that_says_nothing_of_a_prompt_moves_nothing() -> None:
    partial = [RewardScore({"text": value}) for value in (0.1, 0.6)]
    found = advantages(partial, "aa", WEIGHTS, MIN_STDS)
    assert found.tolist() == advantages(partial, "aa", {"text": 1.0}, MIN_STDS).tolist()
