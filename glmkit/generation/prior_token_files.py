"""Prior tokens on the disk, between the two phases of generating many images."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glmkit.files import atomic_path
from glmkit.generation.images import condition_image_digests
from glmkit.hashing import fingerprint, json_sha256
from glmkit.models.checkpoint.adapter_files import WEIGHTS, read
from glmkit.models.checkpoint.adapters import Adapter
from glmkit.records import Request

# The fields of a request that its prior tokens depend on, beside the content of the images that it edits.
FIELDS = ("prompt", "seed", "height", "width", "temperature", "top_p", "top_k")


def weights_behind(folder: Path, adapters: Sequence[str] = (), arithmetic: str = "") -> str:
    """Name what prior tokens depend on besides their request: a model folder, `HybridModel.arithmetic`, and adapters
    of its AR model.

    Adapters are `DIR` or `DIR:WEIGHT`; what they change in other components does not count.
    """
    parts = [(read(adapter.folder).get("autoregressive"), adapter.weight) for adapter in map(Adapter.parse, adapters)]
    changes = [
        (fingerprint(part.file.parent if part.file.name == WEIGHTS else part.file), weight)
        for part, weight in parts
        if part is not None
    ]
    return json_sha256([arithmetic, fingerprint(folder), *changes])[:16]


class PriorTokenFiles:
    """The prior tokens of requests in a folder, one file each, named after everything that they depend on.

    `weights` is what `weights_behind` gives for the model.
    """

    def __init__(self, folder: Path, weights: str) -> None:
        self.folder, self.weights = folder, weights

    def path(self, request: Request) -> Path:
        """Return where the prior tokens of a request are, or will be."""
        values = {key: value for key, value in asdict(request).items() if key in FIELDS}
        edited = [len(request.condition_images), *condition_image_digests(request)]
        digest = json_sha256([self.weights, values, edited])
        return self.folder / f"{digest[:24]}.npz"

    def has(self, request: Request) -> bool:
        """Tell whether the prior tokens of a request are there, and whole."""
        return zipfile.is_zipfile(self.path(request))

    def save(self, request: Request, prior_token_ids: Tensor, seconds: float, peak_memory_gib: float) -> None:
        """Write prior tokens h w, how long it took to generate them, and the most memory in use until then."""
        values = prior_token_ids.to("cpu", torch.int32).numpy()
        with atomic_path(self.path(request)) as temporary:
            np.savez(temporary, prior_token_ids=values, seconds=seconds, peak_memory_gib=peak_memory_gib)

    def load(self, request: Request, device: torch.device) -> Tensor:
        """Read prior tokens, int64 h w."""
        with np.load(self.path(request)) as stored:
            return torch.from_numpy(stored["prior_token_ids"]).to(device, torch.int64)

    def costs(self, request: Request) -> tuple[float, float | None]:
        """Read the seconds of the prior tokens of a request, and the memory, None in a file of earlier versions."""
        with np.load(self.path(request)) as stored:
            peak = float(stored["peak_memory_gib"]) if "peak_memory_gib" in stored else None
            return float(stored["seconds"]), peak
