"""The content guard: images made by hand whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

from glmkit.evaluation.metrics.content import colour_entropy, edge_density


def test_edges() -> None:
    """A white square of 10 x 10 in 101 x 101 black pixels: 39 pixels have an edge to the right or below, one both."""
    pixels = np.zeros((101, 101, 3), np.uint8)
    assert edge_density(pixels) == 0
    pixels[40:50, 40:50] = 255
    assert edge_density(pixels) == pytest.approx(39 / 100**2)
    pixels[40:50, 40:50] = 10
    assert edge_density(pixels) == 0, "too faint to count"


def test_colours() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert colour_entropy(pixels) == 0
    pixels[:4] = (255, 0, 0)
    assert colour_entropy(pixels) == pytest.approx(1)
    pixels[:, :4, 2] = 255
    assert colour_entropy(pixels) == pytest.approx(2)
    every = np.stack(np.meshgrid(*[np.arange(16, 256, 32)] * 3), axis=-1).reshape(8, 64, 3)
    assert colour_entropy(every) == pytest.approx(9), "every colour alike"


def test_a_blanked_background_shows() -> None:
    busy = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    blank = np.where(np.arange(64)[:, None, None] < 16, busy, 255)
    assert edge_density(blank) < 0.5 * edge_density(busy)
    assert colour_entropy(blank) < 0.5 * colour_entropy(busy)
