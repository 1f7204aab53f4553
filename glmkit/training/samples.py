"""Sample images during training: the recipe's prompts, side by side in one file per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from glmkit.config import Samples
from glmkit.files import atomic_path
from glmkit.generation.denoising import decode_prior_tokens
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.models import checkpoint
from glmkit.models.checkpoint import defaults
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request
from glmkit.sizes import parse_size
from glmkit.training import offload


@dataclass(frozen=True)
class Sample:
    """Hold one sample image and its prompt."""

    prompt: str
    image: Image.Image


def requests_of(model: Path, samples: Samples) -> list[Request]:
    """Return the requests of a recipe, one per prompt; what it leaves out is the model's default."""
    model_defaults = defaults.load(model)
    height, width = parse_size(samples.size) if samples.size else (model_defaults.height, model_defaults.width)
    steps = samples.steps or model_defaults.steps
    settings = {"steps": steps, "guidance": model_defaults.guidance, **model_defaults.sampling}
    return [
        Request(str(number), prompt, number, height, width, **settings) for number, prompt in enumerate(samples.prompts)
    ]


SampleFunction = Callable[[int], Sequence[Sample]]  # takes the step; only the process that writes gets samples


class Sampler:
    """Generates the same requests every time with the model as it is now, side by side in one file per step.

    Components that training does not need leave the memory again; where training spends time for memory (`low_memory`),
    one comes after the other. Prior tokens that no step changes are generated once.
    """

    def __init__(
        self, hybrid: HybridModel, requests: list[Request], folder: Path, stage: str, low_memory: bool = False
    ) -> None:
        self.hybrid, self.requests, self.folder, self.stage = hybrid, requests, folder, stage
        self._low_memory, self._prior_tokens = low_memory, list[Tensor]()

    @classmethod
    def for_stage(
        cls, stage: str, hybrid: HybridModel, samples: Samples, folder: Path, low_memory: bool = False
    ) -> Sampler:
        """Make the sampler of a stage; its files go to `folder`."""
        return cls(hybrid, requests_of(hybrid.folder, samples), folder, stage, low_memory)

    def __call__(self, step: int) -> list[Sample]:
        """Generate the images in eval mode, and write them as one file; returns them one by one."""
        resident = [component for component in checkpoint.COMPONENTS if component in vars(self.hybrid)]
        was_training = {component: getattr(self.hybrid, component).training for component in resident}
        for component in resident:
            getattr(self.hybrid, component).eval()
        self.hybrid.low_memory, self.hybrid.kept = self._low_memory, tuple(resident)
        images = self._generate(resident)
        self.hybrid.low_memory, self.hybrid.kept = False, ()
        for component, mode in was_training.items():
            getattr(self.hybrid, component).train(mode)
        self._unload_all_but(resident)
        with atomic_path(self.folder / f"{self.stage}_{step:06d}.png") as temporary:
            side_by_side(images).save(temporary)
        return [Sample(request.prompt, image) for request, image in zip(self.requests, images, strict=True)]

    def _generate(self, resident: Sequence[str]) -> list[Image.Image]:
        """Generate with no more components in memory at a time than training and one half of generation need."""
        if not self._prior_tokens or self.stage == "autoregressive":
            self._make_room_for("autoregressive")
            self._prior_tokens = generate_prior_tokens(self.hybrid, self.requests)
            self._unload_all_but(resident)
        self._make_room_for("decoder")
        return decode_prior_tokens(self.hybrid, self.requests, self._prior_tokens)

    def _make_room_for(self, component: str) -> None:
        if self._low_memory:
            offload.load_where_it_fits(self.hybrid, component)

    def _unload_all_but(self, resident: Sequence[str]) -> None:
        self.hybrid.unload(*(component for component in checkpoint.COMPONENTS if component not in resident))


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Put images into one row, from the left."""
    row = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)))
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width
    return row
