"""Intervals over prompts: resample prompts, not words or images, because prompts are what varies between samples.

The score of a set of images is a chain of reductions (`metrics.chains`), by default sum(numerators) /
sum(denominators). One bootstrap resample takes P prompts of P with replacement, each with all its images, and runs the
whole chain on them (percentile bootstrap: Efron 1979). Where a chain averages groups of prompts, each group is
resampled by itself, for how many prompts it has is part of the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from glmkit.evaluation.metrics import (
    dpg,
    gedit,
    geneval2,
    imgedit,
    oneig,
    t2i_corebench,
    text_attributes,
    tiif,
    unigenbench,
    wise,
)
from glmkit.evaluation.metrics.chains import Chain, micro
from glmkit.records import Score, Summary

BENCHMARKS = (oneig, dpg, tiif, geneval2, wise, t2i_corebench, unigenbench, gedit, imgedit, text_attributes)
CHAINS: Mapping[str, Chain] = {metric: chain for benchmark in BENCHMARKS for metric, chain in benchmark.CHAINS.items()}
RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
MIN_PROMPTS = 20  # below, percentile intervals are clearly too short (Hesterberg 2015)
NO = "no_answers"  # the count of a judge's answers that were no, of all
LARGE = 10_000  # prompts; of more, resampling one by one takes minutes for each summary
_CHUNK = 1 << 22  # prompts picked at once
_NORMAL_PROMPTS = 1_000  # of a stratum; fewer are resampled one by one, whatever stands beside them
_NORMAL_SKEW = 0.05  # of totals: it moves an end of the interval by less than other resamples would
_ROUNDING = 1e-18  # of the largest variance; what is below is rounding


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


def chain_of(metric: str) -> Chain:
    """Return the chain of a metric; one that declares none is a micro average."""
    return CHAINS.get(metric) or micro(metric)


def estimate(scores: Sequence[Score], metric: str) -> Estimate:
    """Pool `metric` over the scored images, with its 95 % interval over prompts."""
    chain = chain_of(metric)
    sums = chain.prompt_sums(scores)
    return Estimate(*_measure([sums], list(sums), chain, chain.value), len(sums))


def paired_difference(scores_a: Sequence[Score], scores_b: Sequence[Score], metric: str) -> PairedDifference:
    """Estimate B minus A on the prompts that both scored; each resample takes the same prompts for both.

    The difference is not resolved when low <= 0 <= high.
    """
    chain = chain_of(metric)
    sums_a, sums_b = chain.prompt_sums(scores_a), chain.prompt_sums(scores_b)
    common = [prompt_id for prompt_id in sums_a if prompt_id in sums_b]

    def difference(totals: np.ndarray) -> np.ndarray:
        a, b = np.split(totals, 2, axis=-1)
        change: np.ndarray = chain.value(b) - chain.value(a)
        return change

    return PairedDifference(*_measure([sums_a, sums_b], common, chain, difference), len(common))


def partial_means(scores: Sequence[Score], metrics: Iterable[str]) -> tuple[str, ...]:
    """Say which of these metrics, all of which have a value, are means of fewer groups than their benchmark has."""
    notes = []
    for metric in metrics:
        missing, count = chain_of(metric).passed_over(scores)
        if missing:
            names = ", ".join(name.replace("_", " ") for name in missing)
            notes.append(f"{metric} is a mean of {count - len(missing)} of {count} dimensions: no score of {names}")
    return tuple(notes)


def image_value(score: Score, metric: str) -> float | None:
    """Return the score of one image alone; None when it has none."""
    if metric in score.counts:
        return score.value(metric)
    return estimate([score], metric).value


def required_counts(metric: str) -> tuple[str, ...]:
    """Name the counts that every scored image has, if it is scored by this metric."""
    chain = chain_of(metric)
    return chain.groups if chain.is_everywhere else ()


PromptSums = Mapping[str, Mapping[str, tuple[float, float]]]  # prompt -> column -> (numerator, denominator)


def _measure(
    sides: Sequence[PromptSums], prompts: Sequence[str], chain: Chain, value: Callable[[np.ndarray], np.ndarray]
) -> tuple[float | None, float | None, float | None]:
    """Calculate the value of the totals of these prompts, one set of columns per side, and its interval."""
    if not prompts:
        return None, None, None
    strata: dict[str, list[str]] = {}
    for prompt_id in prompts:
        columns = list(sides[0][prompt_id])
        strata.setdefault(columns[0] if len(columns) == 1 else "", []).append(prompt_id)
    sums = np.array(
        [
            [number for side in sides for column in chain.columns for number in side[prompt_id].get(column, (0.0, 0.0))]
            for stratum in strata.values()
            for prompt_id in stratum
        ],
        dtype=np.float64,
    )
    whole = float(value(sums.sum(axis=0)))
    if np.isnan(whole):
        return None, None, None
    sizes = tuple(map(len, strata.values()))
    if max(sizes) < 2:
        return whole, None, None
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(value(resampled_totals(sums, sizes)), (tail, 1 - tail))
    return whole, float(low), float(high)


def resampled_totals(sums: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Turn P prompts x C columns of sums into RESAMPLES x C totals; `sizes` are the prompts of each stratum, in order.

    The same sizes always resample the same prompts. Above `LARGE` prompts, the totals of a stratum are sampled from the
    normal distribution that they have there, unless their skew says otherwise.
    """
    if len(sums) <= LARGE:
        return _one_by_one(sums, sizes)
    strata = np.split(sums, np.cumsum(sizes)[:-1])
    totals: np.ndarray = np.sum([_totals_of_many(one, number) for number, one in enumerate(strata)], axis=0)
    return totals


def _one_by_one(sums: np.ndarray, sizes: tuple[int, ...], first: int = 0) -> np.ndarray:
    """Resample the prompts of the strata `first`, `first` + 1, ... as they are."""
    at_once = max(1, _CHUNK // len(sums))
    starts = range(0, RESAMPLES, at_once)
    return np.concatenate([_resample(sizes, start, min(start + at_once, RESAMPLES), first) @ sums for start in starts])


def _totals_of_many(sums: np.ndarray, number: int) -> np.ndarray:
    """Sample RESAMPLES x C totals of stratum `number`: normal, with the moments that resampling gives them.

    The total of n prompts taken of n has mean n m and covariance n S, with mean m and covariance S (over n) of the
    prompts. Its skew is that of the prompts / sqrt(n), and moves a 2.5 % quantile by (1.96^2 - 1) / 6 of it in standard
    deviations (Cornish and Fisher 1938); 10,000 resamples know that quantile to 0.027.
    """
    centred = sums - sums.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    varied = variances > _ROUNDING * variances.max()
    # Along the axes, too: where nearly all words are read, what varies is the small difference of two large columns.
    along = np.hstack((centred[:, np.ptp(sums, axis=0) > 0], centred @ axes[:, varied]))
    skew = (along**3).sum(axis=0) / (along**2).sum(axis=0) ** 1.5
    if len(sums) < _NORMAL_PROMPTS or (np.abs(skew) > _NORMAL_SKEW).any():
        return _one_by_one(sums, (len(sums),), number)
    normal = np.random.default_rng((SEED, number)).standard_normal((RESAMPLES, varied.sum()))
    totals: np.ndarray = sums.sum(axis=0) + (normal * np.sqrt(variances[varied])) @ axes[:, varied].T
    return totals


@lru_cache(maxsize=16)
def _resample(sizes: tuple[int, ...], start: int, stop: int, first: int = 0) -> np.ndarray:
    """Count how often each prompt is in each of the resamples `start` to `stop`, exclusive: (stop - start) x P.

    Bytes hold it: above 255 prompts none is taken 256 times (each expects to be taken once; the odds are below 1e-500).
    """
    count = stop - start
    strata = []
    for number, prompts in enumerate(sizes, first):
        seed = (SEED, start, number) if number else (SEED, start)
        picked = np.random.default_rng(seed).integers(prompts, size=(count, prompts), dtype=np.uint32)
        picked += np.arange(count, dtype=np.uint32)[:, None] * np.uint32(prompts)
        strata.append(np.bincount(picked.ravel(), minlength=count * prompts).astype(np.uint8).reshape(count, prompts))
    return np.concatenate(strata, axis=1) if len(strata) > 1 else strata[0]


def with_metric(summary: Summary, scores: Sequence[Score], name: str, about: Mapping[str, str]) -> Summary:
    """Add one more metric that every scored image counts, with its pooled values and its definition."""
    scored = [score for score in scores if score.error is None]

    def pooled(of: Sequence[Score]) -> dict[str, float | None]:
        one = estimate(of, name)
        return {"value": one.value, "low": one.low, "high": one.high}

    splits = {
        split: {**before, "scores": {**before["scores"], name: pooled([s for s in scored if s.split == split])}}
        for split, before in summary.splits.items()
    }
    scores_of_all = {**summary.scores, name: pooled(scored)}
    return replace(summary, scores=scores_of_all, splits=splits, metrics={**summary.metrics, name: about})


def as_text(estimate: Mapping[str, float | None]) -> str:
    """Format a score of a `summary.json` with its interval: `0.567 [0.527, 0.610]`."""
    if estimate["value"] is None:
        return "not scored"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def percent(share: float | None) -> str:
    """Format a share as a whole percentage, one that is not known as a dash."""
    return "\u2013" if share is None else f"{100 * share:.0f} %"
