"""Sample pictures during training: the recipe's prompts, side by side in one file a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from glmkit.config import Samples, parse_size
from glmkit.files import atomic_path
from glmkit.generation import pipeline
from glmkit.models import defaults
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request


def requests_of(model: Path, samples: Samples) -> list[Request]:
    """The requests of a recipe, one a prompt; what it does not say is as usual for the model."""
    usual = defaults.of(model)
    height, width = parse_size(samples.size) if samples.size else (usual.height, usual.width)
    steps = samples.steps or usual.steps
    return [
        Request(str(number), prompt, number, height, width, steps=steps, guidance=usual.guidance)
        for number, prompt in enumerate(samples.prompts)
    ]


@dataclass(frozen=True)
class Sampler:
    """Draws `requests` with the model as it is now; the same requests every time."""

    hybrid: HybridModel
    requests: list[Request]
    folder: Path
    stage: str

    @classmethod
    def for_stage(cls, stage: str, hybrid: HybridModel, samples: Samples, folder: Path) -> Sampler:
        return cls(hybrid, requests_of(hybrid.folder, samples), folder, stage)

    def __call__(self, step: int) -> None:
        parts = [self.hybrid.autoregressive, self.hybrid.glyph, self.hybrid.decoder]
        modes = [part.training for part in parts]
        for part in parts:
            part.eval()
        with torch.no_grad():
            pictures = [picture for _, picture in pipeline.generate(self.hybrid, self.requests, len(self.requests))]
        for part, mode in zip(parts, modes, strict=True):
            part.train(mode)
        sheet = Image.new("RGB", (sum(picture.width for picture in pictures), max(p.height for p in pictures)))
        left = 0
        for picture in pictures:
            sheet.paste(picture, (left, 0))
            left += picture.width
        with atomic_path(self.folder / f"{self.stage}_{step:06d}.png") as temporary:
            sheet.save(temporary)
