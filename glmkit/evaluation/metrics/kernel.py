"""Kernel distance between small sets of features, with intervals: unbiased squared MMD, kernel (x.y / D + 1)^3.

The estimator and the kernel are those of KID (Bińkowski et al. 2018; Gretton et al. 2012, lemma 6), so sets of tens of
images are not nearer or farther on average because they are small; they only scatter more, and a distance can come
out below 0. Intervals resample the images of both sides (percentile bootstrap); an image that is taken twice is
never compared with itself, which would make resampled sets look more alike than they are.

Shapes: N images, M images of the reference, R resamples, D features.
"""

from __future__ import annotations

import numpy as np

from glmkit.evaluation.stats import LEVEL, RESAMPLES, SEED, Estimate, PairedDifference

DEFINITION = "unbiased squared MMD with the kernel (x.y / width + 1)^3, all pairs, float64; lower is nearer"
HALVES = 200  # random splits of the reference


def distance(images: np.ndarray, reference: np.ndarray) -> Estimate:
    """Measure the distance of N D to M D features, each at least two, with its interval; `n` is N."""
    weights = _weights(len(images), len(reference))
    values = _cross_terms(images, reference, *weights) + _within(reference, weights[1])
    return Estimate(*_value_and_interval(values), len(images))


def difference(before: np.ndarray, after: np.ndarray, reference: np.ndarray) -> PairedDifference:
    """Subtract the distance of `before` from that of `after`; feature i of both belongs to one prompt.

    Below 0, `after` is nearer. Each resample takes the same prompts for both, and the same images of the reference.
    """
    assert before.shape == after.shape
    weights = _weights(len(before), len(reference))
    values = _cross_terms(after, reference, *weights) - _cross_terms(before, reference, *weights)
    return PairedDifference(*_value_and_interval(values), len(before))


def self_distance(reference: np.ndarray) -> Estimate:
    """Measure between two halves of a reference, over random splits: mean, and the range of 95 % of the splits.

    `n` is the size of a half. Halves are smaller than the sets that are compared, so they scatter more than those.
    """
    generator, half = np.random.default_rng(SEED), len(reference) // 2
    values = []
    for _ in range(HALVES):
        order = generator.permutation(len(reference))
        one, other = reference[order[:half]], reference[order[half : 2 * half]]
        weights = np.ones((1, half))
        values.append(_cross_terms(one, other, weights, weights)[0] + _within(other, weights)[0])
    return Estimate(float(np.mean(values)), *_interval(np.array(values)), half)


def _weights(images: int, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Count how often every image is taken, (1 + R) N and (1 + R) M: once each in the first row, then resampled."""
    generator = np.random.default_rng(SEED)
    counts = [generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) for n in (images, reference)]
    one, other = (np.vstack([np.ones((1, count.shape[1])), count]) for count in counts)
    return one, other


def _cross_terms(x: np.ndarray, reference: np.ndarray, w: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Calculate the two terms of the distance that depend on x, for every row of the weights."""
    across = np.einsum("rn,rn->r", w, u @ _kernel(reference, x)) / (w.sum(1) * u.sum(1))
    terms: np.ndarray = _within(x, w) - 2 * across
    return terms


def _within(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Average the kernel over the pairs of different images, for every row of the weights."""
    kernel, squares = _kernel(x, x), w**2
    pairs = w.sum(1) ** 2 - squares.sum(1)
    means: np.ndarray = (np.einsum("rn,rn->r", w @ kernel, w) - squares @ np.diag(kernel)) / pairs
    return means


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    kernel: np.ndarray = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def _value_and_interval(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), *_interval(values[1:])


def _interval(values: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
