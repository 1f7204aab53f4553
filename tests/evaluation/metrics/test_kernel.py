"""The kernel distance: torchmetrics' value, a bootstrap that never compares an image with itself, an honest itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glmkit.evaluation.metrics import kernel


def sets(shift: float, n: int = 20, m: int = 30, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(shift, 1, (n, width)), rng.normal(0, 1, (m, width))


def test_value_is_torchmetrics_own() -> None:
    poly_mmd = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    images, reference = sets(0.3, n=30)
    expected = poly_mmd(torch.from_numpy(images), torch.from_numpy(reference))
    assert kernel.distance(images, reference).value == pytest.approx(float(expected), rel=1e-9)


def test_resampling_is_the_distance_of_distinct_pairs() -> None:
    """A weighted row by hand: images 0, 0, 1 against all of the reference, the pair (0, 0) left out."""
    images, reference = sets(0.5, n=3, m=4)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    across = [k(images[i], y) for i in (0, 0, 1) for y in reference]
    within = [k(reference[i], reference[j]) for i in range(4) for j in range(4) if i != j]
    by_hand = k(images[0], images[1]) - 2 * np.mean(across) + np.mean(within)
    w, u = np.array([[2.0, 1.0, 0.0]]), np.ones((1, 4))
    found = kernel._cross_terms(images, reference, w, u) + kernel._within(reference, u)
    assert found[0] == pytest.approx(by_hand, rel=1e-12)


def test_small_sets_are_not_farther() -> None:
    """The mean over many pairs of sets of 8 from one distribution is 0 within its error."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(300):
        x, y = rng.normal(0, 1, (2, 8, 4))
        everything = np.ones((1, 8))
        values.append(kernel._cross_terms(x, y, everything, everything)[0] + kernel._within(y, everything)[0])
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_interval_and_floor() -> None:
    near, far = (kernel.distance(*sets(shift)) for shift in (0.0, 1.0))
    itself = kernel.self_distance(sets(0.0)[1])
    for figure in (near, far, itself):
        assert figure.low is not None
        assert figure.value is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high
    assert itself.n == 15
    assert itself.low < 0 < itself.high  # type: ignore[operator]
    assert near.low < itself.high < far.low  # type: ignore[operator]


def test_a_difference_is_paired() -> None:
    """Half-way moves of the very same images are resolved although the single intervals overlap."""
    before, reference = sets(0.6)
    change = kernel.difference(before, before - 0.1, reference)
    distances = kernel.distance(before, reference), kernel.distance(before - 0.1, reference)
    assert change.difference == pytest.approx(distances[1].value - distances[0].value)  # type: ignore[operator]
    assert change.high is not None
    assert change.high < 0
    assert change.n == 20
    assert distances[0].low < distances[1].high  # type: ignore[operator]
    assert kernel.difference(before, before, reference)[:3] == (0, 0, 0)
