"""Distances against scipy, closed forms and the formulas written out; memory does not grow with the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.kid import KernelInceptionDistance

from glmkit.evaluation.features import distances
from glmkit.evaluation.features.distances import distance, sample
from glmkit.evaluation.features.store import FEATURES, StoredFeatures


def stored(folder: Path, rows: np.ndarray) -> StoredFeatures:
    folder.mkdir(parents=True, exist_ok=True)
    rows.astype(np.float32).tofile(folder / FEATURES)
    return StoredFeatures(folder, rows.shape[1], len(rows), 0, 0, {})


def gaussian(seed: int, count: int, width: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(width, width)) / np.sqrt(width)
    features: np.ndarray = scale * generator.normal(size=(count, width)) @ mixing + shift
    return features


def whole(folder: Path, rows: np.ndarray) -> distances.FeatureSample:
    return sample(stored(folder, rows), len(rows))


@pytest.mark.parametrize("count", [300, 12])  # more and fewer images than features
def test_frechet_is_scipys_formula(tmp_path: Path, count: int) -> None:
    x, y = gaussian(0, count, 24).astype(np.float32), gaussian(1, count, 24, 0.3, 1.5).astype(np.float32)
    one, other = np.cov(x.astype(np.float64).T), np.cov(y.astype(np.float64).T)  # numpy's n - 1
    root = sqrtm(one @ other).real
    means = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    expected = means @ means + np.trace(one + other - 2 * root)
    found = distance("frechet", whole(tmp_path / "x", x), whole(tmp_path / "y", y))
    assert found == pytest.approx(expected, rel=1e-5)


def test_frechet_of_known_gaussians(tmp_path: Path) -> None:
    """Isotropic Gaussians: width ((s1 - s2)^2 + shift^2), without mean and covariance being estimated twice."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4000, 8))
    rows = (rows - rows.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T)).T)
    found = distance("frechet", whole(tmp_path / "x", rows), whole(tmp_path / "y", 3 * rows + 0.5))
    assert found == pytest.approx(8 * ((3 - 1) ** 2 + 0.5**2), rel=1e-5)


def test_statistics_that_were_kept_give_the_same_distance(tmp_path: Path) -> None:
    x, y = stored(tmp_path / "x", gaussian(0, 50, 6)), stored(tmp_path / "y", gaussian(1, 70, 6))
    fresh = distance("frechet", sample(x, 50), sample(y, 50))
    values = [distance("frechet", sample(x, 50), sample(y, 50, cached=True)) for _ in range(2)]
    (stored_file,) = (tmp_path / "y").glob("statistics-*.npz")
    with np.load(stored_file) as arrays:
        np.savez(stored_file, sum=arrays["sum"] + 50, products=arrays["products"])
    assert values == [fresh, fresh]
    assert distance("frechet", sample(x, 50), sample(y, 50, cached=True)) != fresh  # it was the file


def kernel_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y / width + 1)^3, every pair written out."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n = len(x)
    within = sum(k(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / n**2


def test_kernel_of_small_sets_is_the_formula_and_torchmetrics(tmp_path: Path) -> None:
    x, y = (gaussian(seed, 20, 5, seed / 2).astype(np.float32).astype(np.float64) for seed in (0, 1))
    found = distance("kernel", whole(tmp_path / "x", x), whole(tmp_path / "y", y))
    assert found == pytest.approx(kernel_mmd(x, y), rel=1e-9)
    metric = KernelInceptionDistance(feature=distances._Identity(5), subsets=1, subset_size=20)
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    assert found == pytest.approx(float(metric.compute()[0]), rel=1e-6)


def test_kernel_of_larger_sets_is_the_mean_over_subsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "SUBSET_SIZE", 40)
    x, y = gaussian(0, 200, 5), gaussian(1, 200, 5, 0.5)
    one, other = whole(tmp_path / "x", x), whole(tmp_path / "y", y)
    found = distance("kernel", one, other)
    assert found == distance("kernel", one, other)
    assert found == pytest.approx(kernel_mmd(x, y), rel=0.15)
    assert found != pytest.approx(kernel_mmd(x, y), rel=1e-9)


def test_rbf_is_cmmds_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "CHUNK", 7)  # several blocks
    x, y = (gaussian(seed, 20, 5).astype(np.float32) for seed in (0, 1))
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.exp(-((p - q) @ (p - q)) / 200) for q in b] for p in a]))

    one, other = x.astype(np.float64), y.astype(np.float64)
    expected = 1000 * (mean(one, one) + mean(other, other) - 2 * mean(one, other))
    assert distance("rbf", whole(tmp_path / "x", x), whole(tmp_path / "y", y)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kind", ["frechet", "kernel", "rbf"])
def test_a_set_is_at_no_distance_from_itself_and_order_does_not_count(tmp_path: Path, kind: str) -> None:
    rows = gaussian(0, 60, 4)
    one, turned = whole(tmp_path / "x", rows), whole(tmp_path / "y", rows[::-1].copy())
    far = distance(kind, one, whole(tmp_path / "z", rows + 1))
    assert abs(distance(kind, one, turned)) < far * (0.2 if kind == "kernel" else 1e-6)  # KID's estimate is unbiased


def test_samples_are_the_same_every_time_and_halves_are_disjoint(tmp_path: Path) -> None:
    features = stored(tmp_path, gaussian(0, 31, 3))
    first, again, second = sample(features, 15), sample(features, 15), sample(features, 15, start=15)
    assert (first.indices == again.indices).all()
    assert not set(first.indices) & set(second.indices)
    assert set(sample(features, 31).indices) == set(range(31))
    assert set(first.indices) != set(range(15))


@pytest.mark.parametrize("kind", ["frechet", "kernel", "rbf"])
def test_no_more_features_in_memory_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(distances, "CHUNK", 16)
    monkeypatch.setattr(distances, "SUBSET_SIZE", 16)
    taken: list[int] = []
    take = StoredFeatures.take

    def record(self: StoredFeatures, indices: np.ndarray) -> np.ndarray:
        taken.append(len(indices))
        return take(self, indices)

    monkeypatch.setattr(StoredFeatures, "take", record)
    distance(kind, whole(tmp_path / "x", gaussian(0, 500, 3)), whole(tmp_path / "y", gaussian(1, 500, 3)))
    assert max(taken) == 16
    assert sum(taken) >= 1000
