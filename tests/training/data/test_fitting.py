"""Sizes on the grid: never larger than the image, near the pixels asked for, cut around the centre."""

from __future__ import annotations

import random
from collections import Counter
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glmkit.errors import UserError
from glmkit.training.data.bucketing import fit, shared_fits

SIDES = st.integers(32, 3000)


@given(SIDES, SIDES, st.sampled_from([32 * 32, 256 * 256, 512 * 512, 1024 * 1024]))
def test_nothing_grows_and_little_is_lost(height: int, width: int, most: int) -> None:
    try:
        found = fit(height, width, most, exact=False)
    except UserError as error:
        if "as long as wide" not in error.what:
            raise
        return
    rows, columns = found.size
    assert rows % 32 == columns % 32 == 0
    assert rows * columns <= most
    assert rows <= found.scaled[0] <= height
    assert columns <= found.scaled[1] <= width
    if height * width <= most:
        assert found.scaled == (height, width)
        assert (rows, columns) == (height // 32 * 32, width // 32 * 32)
    elif most >= 256 * 256 and max(height, width) < 3.5 * min(height, width) and min(height, width) >= 256:
        assert rows * columns >= (0.8 if most >= 512 * 512 else 0.6) * most, "pixels are given away"
        assert rows * columns >= 0.8 * found.scaled[0] * found.scaled[1], "more than 20 % is cut off"
        assert found.scaled[0] / height == pytest.approx(found.scaled[1] / width, abs=0.01), "not stretched"


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(2048, 2048, (1024, 1024)), (1536, 2048, (864, 1152)), (2160, 3840, (768, 1344)), (1000, 700, (992, 672))],
)
def test_usual_sizes(height: int, width: int, size: tuple[int, int]) -> None:
    assert fit(height, width, 1024 * 1024, exact=False).size == size


def test_exact_takes_images_only_as_they_are() -> None:
    assert fit(64, 96, 64 * 96, exact=True).size == (64, 96)
    with pytest.raises(UserError, match="not multiples of 32"):
        fit(64, 97, None, exact=True)
    with pytest.raises(UserError, match="more than 4096 pixels"):
        fit(64, 96, 4096, exact=True)


def test_the_middle_is_kept() -> None:
    """An image twice the size with one bright half: the edge stays in the middle after scaling and cutting."""
    levels = np.zeros((128, 260, 3), dtype=np.uint8)
    levels[:, 130:] = 255
    found = fit(128, 260, 64 * 128, exact=False)
    pixels = np.asarray(found.apply(Image.fromarray(levels)))
    assert pixels.shape == (64, 128, 3)
    assert pixels[:, :60].max() <= 30
    assert pixels[:, 68:].min() >= 225


SHAPES = st.lists(st.tuples(st.integers(40, 600), st.integers(40, 600)), min_size=1, max_size=30)


@given(SHAPES, st.integers(1, 8), st.sampled_from([0, 0.1, 0.3]))
def test_shared_buckets_cut_off_little(shapes: list[tuple[int, int]], batch_size: int, max_crop: float) -> None:
    """Full buckets keep all of their images; no image is enlarged or loses more than it may; no bucket is added."""
    sizes = [shape for shape in shapes if max(shape) < 4 * min(shape) - 128]
    fits = [(size, fit(*size, 256 * 256, exact=False)) for size in sizes]
    found = shared_fits(fits, ["edit" if sum(size) % 5 == 0 else "" for size in sizes], batch_size, max_crop)
    counts = Counter((fitted.size, sum(size) % 5 == 0) for size, fitted in fits)
    for (size, before), after in zip(fits, found, strict=True):
        assert after.size[0] <= after.scaled[0] <= size[0]
        assert after.size[1] <= after.scaled[1] <= size[1]
        if counts[before.size, sum(size) % 5 == 0] >= batch_size:
            assert after == before
        if after != before:
            assert prod(after.size) >= (1 - max_crop) * max(prod(after.scaled), prod(before.size))
            assert (after.size, sum(size) % 5 == 0) in counts


def test_photos_of_many_shapes_share_buckets() -> None:
    """16 photos of random shapes make 11 buckets, 8 of them of one image, for batches of 4."""
    rng = random.Random(0)
    sizes = [(rng.randint(600, 2000), rng.randint(600, 2000)) for _ in range(16)]
    fits = [(size, fit(*size, 512 * 512, exact=False)) for size in sizes]
    before = Counter(fitted.size for _, fitted in fits)
    after = Counter(fitted.size for fitted in shared_fits(fits, [""] * 16, 4, 0.2))
    assert sum(count == 1 for count in before.values()) >= 6
    assert len(after) <= len(before) / 2
    assert sum(count == 1 for count in after.values()) <= 1
