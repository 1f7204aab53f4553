"""The toy model and posters on which the losses are computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkit.models.hybrid import HybridModel
from glmkit.training import data


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return HybridModel(tiny_model)


@pytest.fixture(scope="module")
def images(posters: Path) -> tuple[data.ImageDataset, data.ImageDataset]:
    return data.FileDataset(posters / "train"), data.FileDataset(posters / "validation")
