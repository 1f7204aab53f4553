"""One file per kind of image features: `KIND.py` has `load(argument, device)` for the spec KIND or KIND:ARGUMENT, and
`check()`, a UserError when packages or weights are not here.

A distance between sets of images is a distance between their features, so everything that decides a feature is in
`conventions`, and the file name of stored features holds a digest of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
from PIL import Image

from glmkit.evaluation.named_files import NamedFiles
from glmkit.hashing import json_sha256

_FILES = NamedFiles(__name__, "features")
DEFAULT = ("inception", "clip:ViT-L-14-336/openai")  # the features of FID, KID and CMMD


class Extractor(Protocol):
    """Turn images into features B D, float32.

    `spec` loads the same again; `label` names the features in reports. `conventions` are JSON values: weights, resize,
    value range. `distances` maps a kind of distance (frechet, kernel, rbf) to its name; only the published features
    give the published names.
    """

    spec: str
    label: str
    width: int
    conventions: Mapping[str, Any]
    distances: Mapping[str, str]

    def extract(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Extract features B D of images in RGB."""
        ...


def names() -> list[str]:
    """List the kinds."""
    return _FILES.names()


def load(spec: str, device: str) -> Extractor:
    """Load the extractor that `spec` names, on `device`; UserError when it is unknown or its weights are not there."""
    kind, _, argument = spec.partition(":")
    return cast(Extractor, _FILES.load(kind).load(argument, device))


def slug(extractor: Extractor) -> str:
    """Name a folder so that the name is the same exactly when the features are."""
    label = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in extractor.label)
    return f"{label}-{json_sha256(extractor.conventions)[:8]}"
