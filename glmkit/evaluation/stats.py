"""Intervals over prompts: resample prompts, not words or pictures, because prompts are what varies between draws.

A metric of a set of pictures is a ratio of sums, sum(numerators) / sum(denominators) (micro average). One bootstrap
resample draws P prompts of P with replacement, each with all its pictures (percentile bootstrap: Efron 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glmkit.records import Score

RESAMPLES = 2_000
LEVEL = 0.95
SEED = 0
_CHUNK = 1 << 22  # prompt draws held at once: 32 MiB


class Estimate(NamedTuple):
    """A pooled value with its interval. None: nothing was scored (value) or fewer than two prompts (low, high)."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class PairedDifference(NamedTuple):
    """Value of B minus value of A on the `n` prompts that both scored."""

    difference: float | None
    low: float | None
    high: float | None
    n: int


def estimate(rows: Sequence[Score], metric: str) -> Estimate:
    """The pooled value of `metric` over the scored rows, with its 95 % interval over prompts."""
    sums = np.array(list(_prompt_sums(rows, metric).values()), dtype=np.float64).reshape(-1, 2)
    if len(sums) == 0:
        return Estimate(None, None, None, 0)
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < 2:
        return Estimate(value, None, None, len(sums))
    totals = _resampled_totals(sums)
    return Estimate(value, *_interval(totals[:, 0] / totals[:, 1]), len(sums))


def paired_difference(rows_a: Sequence[Score], rows_b: Sequence[Score], metric: str) -> PairedDifference:
    """B minus A on the prompts that both scored; each resample draws the same prompts for both.

    The difference is not resolved when low <= 0 <= high.
    """
    sums_a, sums_b = _prompt_sums(rows_a, metric), _prompt_sums(rows_b, metric)
    common = [prompt_id for prompt_id in sums_a if prompt_id in sums_b]
    if not common:
        return PairedDifference(None, None, None, 0)
    sums = np.array([(*sums_a[prompt_id], *sums_b[prompt_id]) for prompt_id in common], dtype=np.float64)
    difference = float(_difference(sums.sum(axis=0)))
    if len(common) < 2:
        return PairedDifference(difference, None, None, len(common))
    return PairedDifference(difference, *_interval(_difference(_resampled_totals(sums))), len(common))


def _prompt_sums(rows: Sequence[Score], metric: str) -> dict[str, tuple[float, float]]:
    """Numerator and denominator of each prompt with a scored picture, in order of first appearance."""
    sums: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row.error is None:
            numerator, denominator = row.counts[metric]
            before = sums.get(row.prompt_id, (0.0, 0.0))
            sums[row.prompt_id] = (before[0] + numerator, before[1] + denominator)
    return sums


def _difference(totals: np.ndarray) -> np.ndarray:
    return totals[..., 2] / totals[..., 3] - totals[..., 0] / totals[..., 1]


def _resampled_totals(sums: np.ndarray) -> np.ndarray:
    """P prompts x C columns of sums -> RESAMPLES x C totals of resampled prompts. The same P draws the same prompts."""
    generator = np.random.default_rng(SEED)
    prompts = len(sums)
    share = np.full(prompts, 1 / prompts)
    rows = max(1, _CHUNK // prompts)
    chunks = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate([generator.multinomial(prompts, share, size=size) @ sums for size in chunks])


def _interval(values: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
