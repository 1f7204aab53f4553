"""The stand-in features: real weights from a package, that see blur and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from glmkit.errors import UserError
from glmkit.evaluation.features import extractors

POSTERS = Path(__file__).parents[4] / "data" / "posters" / "train"


def test_more_blur_and_more_noise_are_further_away() -> None:
    posters = [Image.open(path).convert("RGB") for path in sorted(POSTERS.glob("*.png"))[:4]]
    noise = np.random.default_rng(0).normal(size=(*posters[0].size[::-1], 3))

    def noisy(image: Image.Image, strength: float) -> Image.Image:
        return Image.fromarray(np.clip(np.asarray(image) + strength * noise, 0, 255).astype(np.uint8))

    extractor = extractors.load("efficientnet-lite0", "cpu")
    clean = extractor.extract(posters)
    assert clean.shape == (4, extractor.width)
    assert clean.dtype == np.float32
    for worse in (
        [[image.filter(ImageFilter.GaussianBlur(radius)) for image in posters] for radius in (1, 3, 9)],
        [[noisy(image, strength) for image in posters] for strength in (5, 20, 80)],
    ):
        distances = [np.linalg.norm(extractor.extract(some) - clean, axis=1).mean() for some in worse]
        assert 0 < distances[0] < distances[1] < distances[2]


def test_a_image_alone_or_in_a_batch() -> None:
    posters = [Image.open(path).convert("RGB") for path in sorted(POSTERS.glob("*.png"))[:2]]
    extractor = extractors.load("efficientnet-lite0", "cpu")
    np.testing.assert_allclose(extractor.extract(posters[:1])[0], extractor.extract(posters)[0], atol=1e-4)


def test_it_never_has_the_name_of_fid() -> None:
    assert not {"fid", "kid", "cmmd"} & set(extractors.load("efficientnet-lite0", "cpu").distances.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [("efficientnet", "did you mean 'efficientnet-lite0'"), ("efficientnet-lite0:x.pth", "only the weights of its")],
)
def test_specs_that_do_not_exist(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        extractors.load(spec, "cpu")
