"""LAION's aesthetic predictor v2, of christophschuhmann/improved-aesthetic-predictor.

LOCATION is `sac+logos+ava1-l14-linearMSE.pth`, or FILE,CLIP with another name or folder of OpenAI's ViT-L/14
(`features.extractors.clip`). Its five linear layers have no activations between them, so they are one affine map of the
CLIP feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.metrics.clip import DEFAULT
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.scorers import load_weights
from glmkit.hashing import file_sha256

ABOUT = "LAION aesthetic predictor v2: aesthetic-v2:FILE.pth"
CHECKED = "open_clip_torch"
FIX = (
    "git clone https://github.com/christophschuhmann/improved-aesthetic-predictor aesthetic, then --scorer "
    "aesthetic-v2:aesthetic/sac+logos+ava1-l14-linearMSE.pth"
)


class AestheticV2:
    """Score how images look; the prompt is not read."""

    metric = "aesthetic_v2"
    most_tokens = 0
    definition = (
        "LAION aesthetic predictor v2, about 1 to 10: an affine map of the CLIP feature (ViT-L/14, unit length) of the "
        "image; mean over images. It reads no prompt, and is not comparable with version 1."
    )

    def __init__(self, location: str, device: str) -> None:
        from glmkit.evaluation.features.extractors.clip import OpenClip

        name, _, clip = location.partition(",")
        if not name:
            raise UserError("the scorer aesthetic-v2 names no file", fix=FIX)
        path = Path(name)
        self._weight, self._bias = collapse(load_weights(path, FIX), path)
        self._clip = OpenClip(clip or DEFAULT, device)
        if self._clip.width != len(self._weight):
            found = f"{self._clip.width} numbers of {self._clip.label}, {len(self._weight)} weights"
            raise UserError(f"{path} is for another CLIP", found=found, fix=FIX)
        weights = {path.name: file_sha256(path), self._clip.label: self._clip.weights_sha256}
        self.identity = EngineIdentity(self.metric, weights)

    def score(self, image: Image.Image, _prompt: str) -> float:
        """Map the feature of the image."""
        feature = self._clip.extract([image])[0].astype(np.float64)
        return float(feature @ self._weight + self._bias)

    def count_tokens(self, _prompt: str) -> int:
        """Read none."""
        return 0


def collapse(state: Any, path: Path) -> tuple[np.ndarray, float]:
    """Multiply linear layers `layers.N.weight` and `.bias` to one: weight D and bias, float64; UserError for others."""
    if not isinstance(state, Mapping) or not all(str(key).startswith("layers.") for key in state) or not state:
        raise UserError(f"{path} does not hold the weights of this scorer", found=str(list(state))[:80], fix=FIX)
    layers = sorted({int(key.split(".")[1]) for key in state})
    weight: np.ndarray | None = None
    bias = np.zeros(1)
    for layer in layers:
        matrix, offset = (state[f"layers.{layer}.{kind}"].double().numpy() for kind in ("weight", "bias"))
        weight = matrix if weight is None else matrix @ weight
        bias = offset if layer == layers[0] else matrix @ bias + offset
    assert weight is not None
    return weight[0], float(bias[0])


def load(location: str, device: str) -> AestheticV2:
    """Load the file and CLIP; UserError when one is missing."""
    return AestheticV2(location, device)
