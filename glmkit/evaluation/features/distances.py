"""Distances between two sets of features, streamed in float64: Fréchet (FID), polynomial kernel (KID), RBF (CMMD).

FID and KID are torchmetrics': its running sums and closed form, its kernel on random subsets. CMMD is the biased
estimator of Jayasumana et al. 2024 (Gretton et al. 2012, eq. 5) on features of unit length.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glmkit.errors import UserError
from glmkit.evaluation.features.store import StoredFeatures
from glmkit.files import atomic_path

CHUNK = 2048  # features that are in memory at once
SUBSETS, SUBSET_SIZE = 100, 1000
SIGMA, SCALE = 10.0, 1000.0
SEED = 0

DEFINITIONS = {
    "frechet": "Fréchet distance: squared difference of the means + traces of the covariances - 2 tr sqrt of their "
    "product, n - 1 degrees of freedom, float64 (torchmetrics FrechetInceptionDistance)",
    "kernel": f"kernel distance: unbiased squared MMD, kernel (x.y / width + 1)^3, mean over {SUBSETS} random subsets "
    f"of {SUBSET_SIZE} (seed {SEED}; smaller sets once, whole), float64 (torchmetrics poly_mmd)",
    "rbf": f"RBF distance: biased squared MMD x {SCALE:g}, kernel exp(-|x - y|^2 / (2 x {SIGMA:g}^2)), unit features, "
    "float64",
}


@dataclass(frozen=True)
class FeatureSample:
    """Hold some of the features of a set. Their statistics are stored in the file `cache`, if any."""

    features: StoredFeatures
    indices: np.ndarray
    cache: Path | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def chunks(self) -> Iterator[Tensor]:
        """Read `CHUNK` features at a time in the order of the file, float64."""
        ordered = np.sort(self.indices)
        for start in range(0, len(ordered), CHUNK):
            yield self.take(ordered[start : start + CHUNK])

    def take(self, indices: np.ndarray) -> Tensor:
        """Read the features with these indices, float64."""
        return torch.from_numpy(self.features.take(indices)).double()


def sample(features: StoredFeatures, count: int, start: int = 0, cached: bool = False) -> FeatureSample:
    """Take features `start` to `start + count` of a random order that is always the same.

    `cached`: their statistics are stored beside the features.
    """
    order = np.random.default_rng(SEED).permutation(features.count)
    cache = features.folder / f"statistics-{start}-{count}.npz" if cached else None
    return FeatureSample(features, order[start : start + count], cache)


def distance(kind: str, one: FeatureSample, other: FeatureSample, device: str = "cpu") -> float:
    """Measure the distance of that kind between two sets of equal size (at least two)."""
    assert len(one) == len(other) >= 2
    value = {"frechet": frechet, "kernel": kernel, "rbf": rbf}[kind](one, other, device)
    if not math.isfinite(value):
        raise UserError(f"the {kind} distance is not a number", found=value, fix="more images, or other features")
    return value


def frechet(one: FeatureSample, other: FeatureSample, device: str = "cpu") -> float:
    """Measure the Fréchet distance of the Gaussians with the mean and covariance of each set."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Identity(one.features.width))
    for features, side in ((one, "fake"), (other, "real")):
        total, products = _sums(features, device)
        setattr(metric, f"{side}_features_sum", total)
        setattr(metric, f"{side}_features_cov_sum", products)
        setattr(metric, f"{side}_features_num_samples", torch.tensor(len(features)))
    metric.orig_dtype = torch.float64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*before the ``update`` method")  # its sums were set above
        return float(metric.compute())


def _sums(features: FeatureSample, device: str) -> tuple[Tensor, Tensor]:
    """Add up sum D and sum of outer products D D of the features, on the CPU: what torchmetrics accumulates."""
    width = features.features.width
    if features.cache is not None and (stored := _stored_sums(features.cache, width)) is not None:
        return stored
    total = torch.zeros(width, dtype=torch.float64, device=device)
    products = torch.zeros(width, width, dtype=torch.float64, device=device)
    for chunk in features.chunks():
        x = chunk.to(device)
        total += x.sum(0)
        products += x.T @ x
    total, products = total.cpu(), products.cpu()
    if features.cache is not None:
        with atomic_path(features.cache) as temporary:
            np.savez(temporary, sum=total.numpy(), products=products.numpy())
    return total, products


def _stored_sums(file: Path, width: int) -> tuple[Tensor, Tensor] | None:
    """Read what an earlier call has stored; None when it is missing or damaged."""
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(file) as stored:
        total, products = stored["sum"], stored["products"]
        if (total.shape, products.shape) == ((width,), (width, width)) and np.isfinite(products).all():
            return torch.from_numpy(total), torch.from_numpy(products)
    return None


class _Identity(torch.nn.Module):
    """Hand features through, as an extractor for torchmetrics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def kernel(one: FeatureSample, other: FeatureSample, device: str = "cpu") -> float:
    """Average the kernel distance over subsets; sets no larger than a subset are compared once, whole."""
    from torchmetrics.image.kid import poly_mmd

    size = min(SUBSET_SIZE, len(one))
    generator = np.random.default_rng(SEED)
    values = []
    for _ in range(SUBSETS if size < len(one) else 1):
        subsets = [side.take(generator.choice(side.indices, size, replace=False)).to(device) for side in (one, other)]
        values.append(float(poly_mmd(*subsets, degree=3, gamma=None, coef=1.0)))
    return float(np.mean(values))


def rbf(one: FeatureSample, other: FeatureSample, device: str = "cpu") -> float:
    """Measure the RBF distance, times SCALE."""
    total = _mean_kernel(one, one, device) + _mean_kernel(other, other, device) - 2 * _mean_kernel(one, other, device)
    return SCALE * total


def _mean_kernel(one: FeatureSample, other: FeatureSample, device: str) -> float:
    total = 0.0
    for x in one.chunks():
        x = x.to(device)
        for y in other.chunks():
            y = y.to(device)
            squares = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
            total += float(torch.exp(squares / (-2 * SIGMA**2)).sum())
    return total / (len(one) * len(other))
