"""What `precision_h200.py` measures at full and at tiny size, and the models that its sections share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import speed_h200 as speed
import torch
from speed_h200 import Bench

from glmkit.generation.random_model import open_model
from glmkit.models import checkpoint
from glmkit.models.devices import dtype_for
from glmkit.models.hybrid import HybridModel


@dataclass(frozen=True)
class Cap:
    """An image of `side` pixels squared on a GPU that gives `gib` GiB; an edit has one condition image.

    `tiled`: the VAE decodes it in tiles.
    """

    gib: float
    side: int
    edit: bool = False
    tiled: bool = False


@dataclass(frozen=True)
class Scale:
    """What is measured: sizes of `speed`, caps per precision, and matrices as (outputs, inputs, gated)."""

    speed: speed.Scale
    caps: Mapping[str, tuple[Cap, ...]]
    packed: Mapping[str, tuple[int, int, bool]]
    float8: Mapping[str, tuple[int, int]]
    tokens: int  # of a product in 8-bit floating point
    compared_side: int  # of images whose bits are compared
    compared_steps: int
    seeds: int  # of training runs of nano
    training: Mapping[str, Any]  # changes of its recipe


FULL = Scale(
    replace(speed.Scale(), prompts=(50,)),
    {
        "8bit": (Cap(24, 1024), Cap(24, 1024, edit=True), Cap(24, 2048, tiled=True)),
        "4bit": (Cap(16, 1024), Cap(16, 1024, edit=True), Cap(16, 2048, tiled=True)),
    },
    {
        "qkv": (4608, 4096, False),
        "o": (4096, 4096, False),
        "gate and up": (27392, 4096, True),
        "down": (4096, 13696, False),
        "head": (16512, 4096, False),
    },
    {"qkv": (12288, 4096), "out": (4096, 4096), "ff 1": (16384, 4096), "ff 2": (4096, 16384)},
    tokens=4160,
    compared_side=512,
    compared_steps=4,
    seeds=3,
    training={},
)
TINY = Scale(
    replace(speed.TOY, sides=(64,), steps=6, batches=(1, 2), prompts=(8,), compared_images=1, throughput_images=2),
    {precision: (Cap(1, 64, tiled=True), Cap(1, 64, edit=True)) for precision in ("8bit", "4bit")},
    {"gate and up": (80, 128, True), "o": (40, 128, False)},
    {"qkv": (48, 32)},
    tokens=6,
    compared_side=64,
    compared_steps=2,
    seeds=1,
    training={"data.size": "64x64"}
    | {f"{stage}.{key}": 1 for stage in ("autoregressive", "decoder") for key in ("steps", "warmup_steps")},
)


class Lab:
    """What sections share: the model of one precision at a time, made when it is first needed."""

    def __init__(self, model: str, device: torch.device, scale: Scale, scratch: Path, out: Path) -> None:
        self.model, self.device, self.scale, self.scratch, self.out = model, device, scale, scratch, out
        self.dtype = dtype_for(device)
        self._hybrid: HybridModel | None = None

    def bench(self, precision: str) -> Bench:
        """Give the model of a precision, and first take the one of another out of the memory."""
        if self._hybrid is None or self._hybrid.precision != precision:
            self.close()
            self._hybrid = open_model(self.model, self.device, self.dtype, self.scratch, precision)
            self._hybrid.optimize_for_inference(self.device.type == "cuda")
        return Bench(self._hybrid, self.scale.speed, self.scratch)

    def close(self) -> None:
        """Take the model out of the memory."""
        if self._hybrid is not None:
            self._hybrid.unload(*checkpoint.COMPONENTS)
