"""Intervals against the normal approximation where it is known, and against what they must not depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glmkit.evaluation.stats import estimate, paired_difference
from glmkit.records import Score


def rows(values: list[tuple[float, float]], pictures: int = 1) -> list[Score]:
    """One prompt a value (numerator, denominator), with the same picture `pictures` times."""
    return [
        Score(f"p{number}_{seed}", f"p{number}", seed, "all", "en", ("x",), counts={"m": value})
        for number, value in enumerate(values)
        for seed in range(pictures)
    ]


def normal_rows(count: int, mean: float, deviation: float, seed: int) -> list[tuple[float, float]]:
    return [(value, 1.0) for value in np.random.default_rng(seed).normal(mean, deviation, count)]


def test_pooled_value_is_sum_over_sum() -> None:
    assert estimate(rows([(1, 1), (1, 9)]), "m").value == pytest.approx(2 / 10)


def test_interval_of_a_mean_is_the_normal_one() -> None:
    values = normal_rows(400, 3.0, 2.0, seed=1)
    numbers = np.array([value for value, _ in values])
    half = 1.959964 * numbers.std() / np.sqrt(len(numbers))
    result = estimate(rows(values), "m")
    assert result.low == pytest.approx(numbers.mean() - half, abs=0.08 * half)
    assert result.high == pytest.approx(numbers.mean() + half, abs=0.08 * half)
    assert result.n == 400


def test_more_pictures_of_the_same_prompts_do_not_narrow_the_interval() -> None:
    values = normal_rows(30, 1.0, 1.0, seed=2)
    assert estimate(rows(values, pictures=4), "m") == pytest.approx(estimate(rows(values), "m"))


def test_errors_are_left_out_not_zero() -> None:
    scored = rows([(1, 2), (2, 2)])
    failed = replace(scored[0], id="p2_0", prompt_id="p2", counts={}, error="no picture")
    assert estimate([*scored, failed], "m") == estimate(scored, "m")
    assert estimate([failed], "m") == (None, None, None, 0)
    assert estimate(scored[:1], "m") == (0.5, None, None, 1)


def test_pairs_cancel_what_the_prompts_share() -> None:
    values = normal_rows(50, 0.0, 5.0, seed=3)
    better = [(numerator + 0.25, denominator) for numerator, denominator in values]
    wide = estimate(rows(values), "m")
    assert wide.high is not None and wide.low is not None and wide.high - wide.low > 1
    assert paired_difference(rows(values), rows(better), "m") == pytest.approx((0.25, 0.25, 0.25, 50))


def test_paired_interval_is_the_normal_one_and_changes_sign_with_the_sides() -> None:
    before, after = normal_rows(400, 0.0, 1.0, seed=4), normal_rows(400, 0.1, 1.0, seed=5)
    gains = np.array([b - a for (a, _), (b, _) in zip(before, after, strict=True)])
    half = 1.959964 * gains.std() / np.sqrt(len(gains))
    result = paired_difference(rows(before), rows(after), "m")
    assert result.difference == pytest.approx(gains.mean())
    assert (result.low, result.high) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.08 * half)
    other = paired_difference(rows(after), rows(before), "m")
    assert result.low is not None and result.high is not None
    assert (other.low, other.high) == pytest.approx((-result.high, -result.low))


def test_pairs_use_only_common_prompts_in_any_order() -> None:
    one, other = rows([(1, 1), (0, 1), (0, 1)]), rows([(1, 1), (1, 1)])
    result = paired_difference(one, other[::-1], "m")
    assert (result.difference, result.n) == (0.5, 2)
    assert paired_difference(one[:1], other[1:], "m") == (None, None, None, 0)
