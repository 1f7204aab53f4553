"""Intervals over prompts: resample prompts, not words or images, because prompts are what varies between samples.

A metric of a set of images is a ratio of sums, sum(numerators) / sum(denominators) (micro average), or a formula of
such ratios (`oneig.DERIVED`). One bootstrap resample takes P prompts of P with replacement, each with all its
images (percentile bootstrap: Efron 1979).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from glmkit.evaluation.metrics.oneig import DERIVED
from glmkit.records import Score

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
_CHUNK = 1 << 22  # prompts picked at once


class Estimate(NamedTuple):
    """Hold a pooled value with its interval. None: nothing was scored (value) or fewer than two prompts (low, high)."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class PairedDifference(NamedTuple):
    """Hold the value of B minus the value of A on the `n` prompts that both scored."""

    difference: float | None
    low: float | None
    high: float | None
    n: int


def estimate(scores: Sequence[Score], metric: str) -> Estimate:
    """Pool `metric` over the scored images, with its 95 % interval over prompts."""
    prompt_sums = _prompt_sums(scores, metric)
    sums = np.array(list(prompt_sums.values()), dtype=np.float64)
    return Estimate(*_measure(sums, lambda totals: _value(totals, metric)), len(prompt_sums))


def paired_difference(scores_a: Sequence[Score], scores_b: Sequence[Score], metric: str) -> PairedDifference:
    """Estimate B minus A on the prompts that both scored; each resample takes the same prompts for both.

    The difference is not resolved when low <= 0 <= high.
    """
    sums_a, sums_b = _prompt_sums(scores_a, metric), _prompt_sums(scores_b, metric)
    common = [prompt_id for prompt_id in sums_a if prompt_id in sums_b]
    sums = np.array([sums_a[prompt_id] + sums_b[prompt_id] for prompt_id in common], dtype=np.float64)

    def difference(totals: np.ndarray) -> np.ndarray:
        a, b = np.split(totals, 2, axis=-1)
        change: np.ndarray = _value(b, metric) - _value(a, metric)
        return change

    return PairedDifference(*_measure(sums, difference), len(common))


def _measure(
    sums: np.ndarray, value: Callable[[np.ndarray], np.ndarray]
) -> tuple[float | None, float | None, float | None]:
    """Turn P prompts x C columns of sums into the value of their totals, and its interval."""
    if len(sums) == 0:
        return None, None, None
    whole = float(value(sums.sum(axis=0)))
    if np.isnan(whole):
        return None, None, None
    if len(sums) < 2:
        return whole, None, None
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(value(_resampled_totals(sums)), (tail, 1 - tail))
    return whole, float(low), float(high)


def ratios(metric: str) -> tuple[str, ...]:
    """Name the counts of a score that a metric is made of."""
    return DERIVED[metric].ratios if metric in DERIVED else (metric,)


def _prompt_sums(scores: Sequence[Score], metric: str) -> dict[str, tuple[float, ...]]:
    """Add up numerators and denominators of each prompt with a scored image, in order of first appearance."""
    sums: dict[str, tuple[float, ...]] = {}
    for score in scores:
        if score.error is None:
            new = [number for ratio in ratios(metric) for number in score.counts[ratio]]
            before = sums.get(score.prompt_id, (0.0,) * len(new))
            sums[score.prompt_id] = tuple(old + more for old, more in zip(before, new, strict=True))
    return sums


def _value(totals: np.ndarray, metric: str) -> np.ndarray:
    """Turn ... x C totals into the metric of each; not a number where a denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = totals[..., 0::2] / totals[..., 1::2]
    values[~np.isfinite(values)] = np.nan
    return DERIVED[metric].formula(*np.moveaxis(values, -1, 0)) if metric in DERIVED else values[..., 0]


def _resampled_totals(sums: np.ndarray) -> np.ndarray:
    """Turn P prompts x C columns of sums into RESAMPLES x C totals. The same P always resamples the same prompts."""
    size = max(1, _CHUNK // len(sums))
    return np.concatenate(
        [_resample(len(sums), start, min(start + size, RESAMPLES)) @ sums for start in range(0, RESAMPLES, size)]
    )


@lru_cache(maxsize=16)
def _resample(prompts: int, start: int, stop: int) -> np.ndarray:
    """Count how often each prompt is in each of the resamples `start` to `stop`, exclusive: (stop - start) x P.

    Bytes hold it: above 255 prompts none is taken 256 times (each expects to be taken once; the odds are below 1e-500).
    """
    count = stop - start
    picked = np.random.default_rng((SEED, start)).integers(prompts, size=(count, prompts), dtype=np.uint32)
    picked += np.arange(count, dtype=np.uint32)[:, None] * np.uint32(prompts)
    return np.bincount(picked.ravel(), minlength=count * prompts).astype(np.uint8).reshape(count, prompts)


def as_text(estimate: Mapping[str, float | None]) -> str:
    """Format a score of a `summary.json` with its interval: `0.567 [0.527, 0.610]`."""
    if estimate["value"] is None:
        return "not scored"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
