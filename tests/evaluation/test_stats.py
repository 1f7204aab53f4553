"""Intervals against scipy's bootstrap and the normal approximation, and against what they must not depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from glmkit.evaluation import stats
from glmkit.evaluation.stats import estimate, paired_difference
from glmkit.records import Score


def rows(values: list[tuple[float, float]], images: int = 1) -> list[Score]:
    """One prompt a value (numerator, denominator), with the same image `images` times."""
    return [
        Score(f"p{number}_{seed}", f"p{number}", seed, "all", "en", ("x",), counts={"m": value})
        for number, value in enumerate(values)
        for seed in range(images)
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


def test_more_images_of_the_same_prompts_do_not_narrow_the_interval() -> None:
    values = normal_rows(30, 1.0, 1.0, seed=2)
    assert estimate(rows(values, images=4), "m") == pytest.approx(estimate(rows(values), "m"))


def test_images_of_a_prompt_are_added_up() -> None:
    first, second = rows([(1, 2)]), [replace(rows([(0, 6)])[0], id="p0_1")]
    assert estimate([*first, *second], "m") == (1 / 8, None, None, 1)


def test_errors_are_left_out_not_zero() -> None:
    scored = rows([(1, 2), (2, 2)])
    failed = replace(scored[0], id="p2_0", prompt_id="p2", counts={}, error="not in the folder")
    assert estimate([*scored, failed], "m") == estimate(scored, "m")
    assert estimate([failed], "m") == (None, None, None, 0)
    assert estimate(scored[:1], "m") == (0.5, None, None, 1)


def test_pairs_cancel_what_the_prompts_share() -> None:
    values = normal_rows(50, 0.0, 5.0, seed=3)
    better = [(numerator + 0.25, denominator) for numerator, denominator in values]
    wide = estimate(rows(values), "m")
    assert wide.high is not None
    assert wide.low is not None
    assert wide.high - wide.low > 1
    assert paired_difference(rows(values), rows(better), "m") == pytest.approx((0.25, 0.25, 0.25, 50))


def test_paired_interval_is_the_normal_one_and_changes_sign_with_the_sides() -> None:
    before, after = normal_rows(400, 0.0, 1.0, seed=4), normal_rows(400, 0.1, 1.0, seed=5)
    gains = np.array([b - a for (a, _), (b, _) in zip(before, after, strict=True)])
    half = 1.959964 * gains.std() / np.sqrt(len(gains))
    result = paired_difference(rows(before), rows(after), "m")
    assert result.difference == pytest.approx(gains.mean())
    assert (result.low, result.high) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.08 * half)
    other = paired_difference(rows(after), rows(before), "m")
    assert result.low is not None
    assert result.high is not None
    assert (other.low, other.high) == pytest.approx((-result.high, -result.low))


def test_pairs_use_only_common_prompts_in_any_order() -> None:
    one, other = rows([(1, 1), (0, 1), (0, 1)]), rows([(1, 1), (1, 1)])
    result = paired_difference(one, other[::-1], "m")
    assert (result.difference, result.n) == (0.5, 2)
    assert paired_difference(one[:1], other[1:], "m") == (None, None, None, 0)


def scipy_interval(columns: np.ndarray, statistic: Callable[..., np.ndarray]) -> tuple[float, float]:
    """The percentile interval of scipy.stats.bootstrap over prompts; `columns` is C x P."""
    result = scipy.stats.bootstrap(
        tuple(columns),
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=9_999,
        rng=7,
        batch=500,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def counted(generator: np.random.Generator, prompts: int) -> list[tuple[float, float]]:
    """Words read of words asked for, with a chance to be read that varies between prompts."""
    words = generator.integers(1, 12, prompts)
    return [
        (float(hits), float(n))
        for hits, n in zip(generator.binomial(words, generator.beta(2, 1, prompts)), words, strict=True)
    ]


def test_a_ratio_of_sums_has_the_interval_of_scipy() -> None:
    values = counted(np.random.default_rng(6), 150)
    low, high = scipy_interval(np.array(values).T, lambda n, d, axis: n.sum(axis) / d.sum(axis))
    result = estimate(rows(values), "m")
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_a_paired_difference_has_the_interval_of_scipy() -> None:
    generator = np.random.default_rng(8)
    before, after = counted(generator, 150), counted(generator, 150)

    def gain(n: np.ndarray, d: np.ndarray, m: np.ndarray, e: np.ndarray, axis: int) -> np.ndarray:
        difference: np.ndarray = m.sum(axis) / e.sum(axis) - n.sum(axis) / d.sum(axis)
        return difference

    low, high = scipy_interval(np.hstack((before, after)).T, gain)
    result = paired_difference(rows(before), rows(after), "m")
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_a_formula_of_ratios_is_resampled_as_a_whole() -> None:
    """OneIG-Bench: the score of the pooled ED, CR and WAC, against scipy and against the formula by hand."""
    generator = np.random.default_rng(9)
    edits = generator.integers(0, 60, 150) * (generator.random(150) < 0.7)
    scored = [
        replace(row, counts={"ed": (float(e), 1.0), "cr": (float(e == 0), 1.0), "wac": row.counts["m"]})
        for row, e in zip(rows(counted(generator, 150)), edits, strict=True)
    ]
    columns = np.array([[*row.counts["ed"], *row.counts["cr"], *row.counts["wac"]] for row in scored], float).T

    def score(*sums: np.ndarray, axis: int) -> np.ndarray:
        ed, ones, cr, more, wac, units = (column.sum(axis) for column in sums)
        value: np.ndarray = 1 - np.minimum(100, ed / ones) * (1 - cr / more) * (1 - wac / units) / 100
        return value

    low, high = scipy_interval(columns, score)
    result = estimate(scored, "oneig_text_en")
    assert result.value == pytest.approx(float(score(*columns, axis=0)), abs=1e-15)
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.04 * (high - low))
    same = paired_difference(scored, scored, "oneig_text_en")
    assert same == (0.0, 0.0, 0.0, 150)


def test_many_prompts_are_resampled_in_parts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting the resamples must not repeat them, and each takes as many prompts as there are."""
    first, second = stats._resample((40,), 0, 300), stats._resample((40,), 300, 600)
    assert (first != second).any(axis=1).all()
    assert set(first.sum(axis=1)) == {40}
    values = normal_rows(40, 3.0, 2.0, seed=10)
    whole = estimate(rows(values), "m")
    monkeypatch.setattr(stats, "_CHUNK", 40 * 300)
    parts = estimate(rows(values), "m")
    assert whole.low is not None
    assert whole.high is not None
    assert parts != whole
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.04 * (whole.high - whole.low))


def test_totals_of_many_prompts_have_the_interval_of_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stratum and several, of which a small one stays resampled, and paired differences."""
    values, others = counted(np.random.default_rng(11), 3_000), counted(np.random.default_rng(12), 3_000)
    first, second = rows(values), rows(others)
    sums = np.array(values)
    exact: list[stats.Estimate | stats.PairedDifference] = [estimate(first, "m"), paired_difference(first, second, "m")]
    strata = stats.resampled_totals(sums, (2_500, 500))
    monkeypatch.setattr(stats, "LARGE", 2_000)
    for resampled, normal in zip(exact, [estimate(first, "m"), paired_difference(first, second, "m")], strict=True):
        assert normal[0] == resampled[0]
        assert resampled.low is not None
        assert resampled.high is not None
        assert normal[1:3] != resampled[1:3]
        assert normal[1:3] == pytest.approx(resampled[1:3], abs=0.04 * (resampled.high - resampled.low))
    many = stats.resampled_totals(sums, (2_500, 500))
    assert np.cov(many.T) == pytest.approx(np.cov(strata.T), rel=0.08)
    assert many.mean(axis=0) == pytest.approx(sums.sum(axis=0), rel=1e-3)


def test_totals_that_are_not_normal_are_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three misses in 3,000 prompts of 1 to 11 words: the columns look normal, their difference does not."""
    words = np.random.default_rng(13).integers(1, 12, 3_000).astype(float)
    scored = rows([(word - (number < 3), word) for number, word in enumerate(words.tolist())])
    exact = estimate(scored, "m")
    monkeypatch.setattr(stats, "LARGE", 2_000)
    assert estimate(scored, "m") == exact


def test_nothing_to_count_is_no_value() -> None:
    assert estimate(rows([(0, 0), (0, 0)]), "m") == (None, None, None, 2)
