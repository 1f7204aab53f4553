"""InceptionV3 of 2015-12-05, layer 2048: the features of FID (Heusel et al. 2017) and KID (Binkowski et al. 2018).

torchmetrics' network with torch-fidelity's conversion of the original weights. `inception` downloads them once,
`inception:FILE` takes a file; either must have the published checksum, or the distance would not be FID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.extras import require
from glmkit.files import atomic_path, cache_folder
from glmkit.hashing import file_sha256

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
ANTIALIAS = True  # torchmetrics' default since 1.8; before, and in the first FID code, there was none


class Inception:
    """Hold the network; `weights` is its file."""

    label = "InceptionV3-2015-12-05"
    width = 2048
    distances: Mapping[str, str] = {"frechet": "fid", "kernel": "kid"}

    def __init__(self, spec: str, weights: Path, device: str) -> None:
        _check_packages()
        from torchmetrics.image.fid import NoTrainInceptionV3

        network = NoTrainInceptionV3("inception-v3-compat", [str(self.width)], str(weights), ANTIALIAS)
        self._network = network.to(device)
        self._device = device
        self.spec = spec
        self.conventions: Mapping[str, Any] = {
            "network": "InceptionV3, TensorFlow weights of 2015-12-05 (torch-fidelity), torchmetrics",
            "weights_sha256": SHA256,
            "layer": str(self.width),
            "resize": "299x299, bilinear, aspect ratio not preserved",
            "antialias": ANTIALIAS,
            "input": "uint8 0..255, (x - 128) / 128",
            "dtype": "float32",
        }

    @torch.inference_mode()
    def extract(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Extract one by one: images differ in size, and are resized by the network itself."""
        features = []
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for image in images:
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(self._device)
                features.append(self._network(pixels).float().cpu().numpy())
        return np.concatenate(features)


def load(argument: str, device: str) -> Inception:
    """Load the weights of a file, or download them once."""
    if argument:
        return Inception(f"inception:{Path(argument).resolve()}", _checked(Path(argument)), device)
    return Inception("inception", _downloaded(), device)


def check() -> None:
    """Raise UserError when packages or weights are not here."""
    _check_packages()
    if not _cached().exists():
        fix = f"curl -LO {URL} and --features inception:FILE (without FILE the first use downloads it)"
        raise UserError("the Inception weights are not on this machine", fix=fix)


def _check_packages() -> None:
    for package in ("torchmetrics", "torch-fidelity"):
        require(package, "Inception")


def _cached() -> Path:
    return cache_folder() / URL.rsplit("/", 1)[1]


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"Inception weights {path} do not exist", fix=f"the file of {URL}")
    found = file_sha256(path)
    if found != SHA256:
        fix = f"the file of {URL} with sha256 {SHA256}"
        raise UserError(f"{path} does not hold the Inception weights of FID", found=f"sha256 {found}", fix=fix)
    return path


def _downloaded() -> Path:
    path = _cached()
    if not path.exists():
        try:
            with atomic_path(path) as temporary:
                torch.hub.download_url_to_file(URL, str(temporary), hash_prefix=SHA256)
        except (URLError, RuntimeError, TimeoutError) as error:
            raise UserError(
                f"cannot download the Inception weights from {URL}",
                found=str(error),
                fix="--features inception:FILE with that file, or --features efficientnet-lite0 (which is not FID)",
            ) from error
    return _checked(path)
