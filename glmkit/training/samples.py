"""Sample images during training: the recipe's prompts, side by side in one file a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from glmkit.config import Samples, parse_size
from glmkit.files import atomic_path
from glmkit.generation.denoising import decode_prior_tokens
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.models import checkpoint
from glmkit.models.checkpoint import defaults
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request


def requests_of(model: Path, samples: Samples) -> list[Request]:
    """The requests of a recipe, one a prompt; what it does not say is as usual for the model."""
    usual = defaults.load(model)
    height, width = parse_size(samples.size) if samples.size else (usual.height, usual.width)
    steps = samples.steps or usual.steps
    return [
        Request(str(number), prompt, number, height, width, steps=steps, guidance=usual.guidance)
        for number, prompt in enumerate(samples.prompts)
    ]


class Sampler:
    """Draws `requests` with the model as it is now; the same requests every time.

    Parts that training does not need leave the memory again. Codes that no step changes are written once.
    """

    def __init__(self, hybrid: HybridModel, requests: list[Request], folder: Path, stage: str) -> None:
        self.hybrid, self.requests, self.folder, self.stage = hybrid, requests, folder, stage
        self._codes: list[Tensor] | None = None

    @classmethod
    def for_stage(cls, stage: str, hybrid: HybridModel, samples: Samples, folder: Path) -> Sampler:
        return cls(hybrid, requests_of(hybrid.folder, samples), folder, stage)

    def __call__(self, step: int) -> None:
        staying = [part for part in checkpoint.COMPONENTS if part in vars(self.hybrid)]
        modes = {part: getattr(self.hybrid, part).training for part in staying}
        for part in staying:
            getattr(self.hybrid, part).eval()
        images = self._draw(staying)
        for part, mode in modes.items():
            getattr(self.hybrid, part).train(mode)
        self._release_all_but(staying)
        sheet = Image.new("RGB", (sum(image.width for image in images), max(p.height for p in images)))
        left = 0
        for image in images:
            sheet.paste(image, (left, 0))
            left += image.width
        with atomic_path(self.folder / f"{self.stage}_{step:06d}.png") as temporary:
            sheet.save(temporary)

    def _draw(self, staying: Sequence[str]) -> list[Image.Image]:
        """The images, with no more parts in the memory at a time than training and one half of generation need."""
        if self._codes is None or self.stage == "autoregressive":
            self._codes = generate_prior_tokens(self.hybrid, self.requests)
            self._release_all_but(staying)
        return decode_prior_tokens(self.hybrid, self.requests, self._codes)

    def _release_all_but(self, staying: Sequence[str]) -> None:
        self.hybrid.unload(*(part for part in checkpoint.COMPONENTS if part not in staying))
