"""The features of FID: torchmetrics' own network on our images, its weights only with the published checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import NoTrainInceptionV3

from glmkit.errors import UserError
from glmkit.evaluation.features import extractors
from glmkit.evaluation.features.extractors import inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the format of the published file."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: None)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "unused")
    torch.save(network.state_dict(), path)
    return path


def test_images_of_any_size_as_torchmetrics_takes_them(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 64), (310, 300))]
    found = extractors.load(f"inception:{weights}", "cpu").extract([Image.fromarray(array) for array in arrays])
    reference = {
        antialias: NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights), antialias)
        for antialias in (True, False)
    }
    expected = {
        antialias: [network(torch.from_numpy(array).permute(2, 0, 1)[None])[0].numpy() for array in arrays]
        for antialias, network in reference.items()
    }
    assert found.shape == (2, 2048)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[True], rtol=1e-5, atol=1e-7)
    assert np.abs(found[1] - expected[False][1]).max() > 1e-4 * np.abs(found[1]).max()  # antialiasing matters


def test_other_weights_are_refused(weights: Path) -> None:
    with pytest.raises(UserError, match=f"(.|\n)*found: sha256 [0-9a-f]{{64}}(.|\n)*{inception.SHA256}"):
        extractors.load(f"inception:{weights}", "cpu")
    with pytest.raises(UserError, match=r"nowhere.pth do not exist"):
        extractors.load("inception:nowhere.pth", "cpu")


def test_no_network_is_told_with_what_else_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(UserError, match="--features inception:FILE"):
        extractors.load("inception", "cpu")
    assert not list(tmp_path.iterdir())


def test_a_download_is_checked_and_kept(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, path: str, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        Path(path).write_bytes(weights.read_bytes())

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(inception, "SHA256", digest)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    paths = {inception._downloaded() for _ in range(2)}
    assert asked == [(inception.URL, digest)]
    assert paths == {tmp_path / inception.URL.rsplit("/", 1)[1]}
