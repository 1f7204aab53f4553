"""Load a model, generate and edit images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from PIL import Image

from glmkit.distributed.process_group import SINGLE_PROCESS
from glmkit.errors import GenerationError, UserError
from glmkit.generation.batch import Result
from glmkit.generation.hybrid_generator import HybridGenerator
from glmkit.generation.loading import load_model
from glmkit.generation.options import InferenceOptions, adapter_names
from glmkit.generation.pipeline import generate_one
from glmkit.generation.prior_tokens import Progress
from glmkit.generation.requests import new_request
from glmkit.inputs.images import as_rgb, read_image
from glmkit.progress import stage_bars
from glmkit.records import Request

if TYPE_CHECKING:
    from glmkit.models.hybrid import HybridModel

BATCH_SIZE = 64  # prompts whose prior tokens are generated together: a GPU takes hardly longer for 64 than for one

ImageSource = str | Path | Image.Image


@dataclass(frozen=True)
class GeneratedImage:
    """Hold one image of a batch, or the error that prevented it; exactly one of `image` and `error` is None.

    `seconds` is this image's share of the time of its batch.
    """

    prompt: str
    seed: int
    image: Image.Image | None
    error: GenerationError | None
    seconds: float


class Model:
    """Generate and edit images with one GLM-Image model; made by `load`.

    Components are read from their files when they are first needed, and stay. `name` is what `load` was given,
    `adapters` are those merged into the weights.
    """

    def __init__(self, hybrid: HybridModel) -> None:
        self.hybrid = hybrid

    @property
    def name(self) -> str:
        """Return what the model was loaded as: nano, a folder or a hub id."""
        return self.hybrid.name

    @property
    def adapters(self) -> tuple[str, ...]:
        """Return the adapters, each `DIR` or `DIR:WEIGHT`."""
        return self.hybrid.adapters

    def __repr__(self) -> str:
        return f"Model({self.name!r}, device={str(self.hybrid.device)!r}, adapters={list(self.adapters)!r})"

    @overload
    def generate(self, prompt: str, *, seed: int = ..., **options: Any) -> Image.Image: ...
    @overload
    def generate(
        self, prompt: str | Sequence[str], *, seed: int | Sequence[int] = ..., **options: Any
    ) -> Iterator[GeneratedImage]: ...
    def generate(
        self, prompt: str | Sequence[str], *, seed: int | Sequence[int] = 0, **options: Any
    ) -> Image.Image | Iterator[GeneratedImage]:
        """Generate the image of a prompt; quoted parts of the prompt are the texts that it renders.

        One prompt and one seed give the image. Several prompts, or several seeds, give an iterator over
        `GeneratedImage`, in the order of the prompts: one seed holds for all prompts, several are one for each prompt,
        or give one prompt several images. The same prompt, seed and size give the same image alone and in a batch.

        Options, by diffusers' names, default to the model's own: `height` and `width` in pixels (multiples of 32),
        `num_inference_steps` (1 to 1000), `guidance_scale` (classifier-free guidance; at most 1 turns it off), `texts`
        (a list: what to render, where the quotes of one prompt do not say it), `reuse` (2 or 3: the decoder's blocks
        run in every 2nd or 3rd step) and `guided` (the share of the steps, from the first, that use guidance), which
        are quicker and not exact, `vae_tiling` (True: images above the size that the VAE was trained on are decoded in
        tiles, which takes less memory and is not exact), `batch_size` (prompts that go through the AR model together),
        `progress` (True for bars on stderr, or a function of stage, steps done, and steps in all).

        Raises GenerationError when the request cannot be served; in a batch it is the `error` of its result.
        """
        settings = GenerationOptions(**options)
        if isinstance(prompt, str) and isinstance(seed, int):
            return self._one(self._request(prompt, seed, settings), settings)
        if settings.texts is not None and not isinstance(prompt, str):
            raise GenerationError("texts are those of one prompt", found=f"{len(prompt)} prompts", fix="one at a time")
        pairs = list(_pairs(prompt, seed))
        return self._many([self._request(*pair, settings, number) for number, pair in enumerate(pairs)], settings)

    def edit(
        self, image: ImageSource | Sequence[ImageSource], prompt: str, *, seed: int = 0, **options: Any
    ) -> Image.Image:
        """Change an image, or combine two or three, as the prompt says; quoted parts are the texts to render.

        `image` is a path, a PIL image, or a list of them. The result has about the model's default area in the shape of
        the first image, unless `height` and `width` say otherwise. Options are those of `generate`.

        Raises GenerationError when the request cannot be served or an image cannot be read.
        """
        images = [image] if isinstance(image, ImageSource) else list(image)
        settings = GenerationOptions(**options)
        with tempfile.TemporaryDirectory(prefix="glmkit-") as folder:
            paths = [_as_file(one, Path(folder) / f"{number}.png") for number, one in enumerate(images)]
            return self._one(self._request(prompt, seed, settings, condition_images=paths), settings)

    def _request(
        self, prompt: str, seed: int, settings: GenerationOptions, number: int = 0, condition_images: Sequence[str] = ()
    ) -> Request:
        try:
            shape = read_image(condition_images[0]).size if condition_images else None
            return new_request(
                self.hybrid.folder,
                f"{number:06d}",
                prompt,
                size=settings.size,
                shape=shape,
                seed=seed,
                steps=settings.num_inference_steps,
                guidance=settings.guidance_scale,
                condition_images=condition_images,
                texts=settings.texts,
                reuse=settings.reuse,
                guided=settings.guided,
                vae_tiling=settings.vae_tiling,
            )
        except UserError as error:
            raise GenerationError.of(error) from error

    def _one(self, request: Request, settings: GenerationOptions) -> Image.Image:
        with stage_bars(disable=settings.progress is not True) as bars:
            return generate_one(self.hybrid, request, settings.callback(bars.update))

    def _many(self, requests: Sequence[Request], settings: GenerationOptions) -> Iterator[GeneratedImage]:
        with stage_bars(disable=settings.progress is not True) as bars:
            for start in range(0, len(requests), settings.batch_size):
                batch = requests[start : start + settings.batch_size]
                results: dict[str, Result] = {}

                def is_missing(request: Request, results: dict[str, Result] = results) -> bool:
                    return request.id not in results

                def report(result: Result, results: dict[str, Result] = results) -> None:
                    results[result.request.id] = result

                generator = HybridGenerator(self.hybrid, settings.batch_size, settings.callback(bars.update))
                with tempfile.TemporaryDirectory(prefix="glmkit-") as work:
                    generator.generate_missing(batch, is_missing, report, Path(work), SINGLE_PROCESS)
                yield from (_generated(results[request.id]) for request in batch)


@dataclass(frozen=True)
class GenerationOptions:
    """The options of `Model.generate` and `Model.edit`."""

    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    texts: Sequence[str] | None = None
    reuse: int = Request.reuse
    guided: float = Request.guided
    vae_tiling: bool = Request.vae_tiling
    batch_size: int = BATCH_SIZE
    progress: bool | Progress = False

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise GenerationError("give height and width together", fix="height=1024, width=1024")
        if isinstance(self.texts, str):
            raise GenerationError("texts must be a list", found=self.texts, fix=f"texts=[{self.texts!r}]")
        if self.batch_size < 1:
            raise GenerationError("batch_size must be at least 1", found=self.batch_size)

    @property
    def size(self) -> str | None:
        """Give WIDTHxHEIGHT in pixels, None for the model's own size."""
        return None if self.height is None else f"{self.width}x{self.height}"

    def callback(self, bars: Progress) -> Progress | None:
        """Choose what reports each step: the caller's function, bars, or nothing."""
        if callable(self.progress):
            return self.progress
        return bars if self.progress else None


def _pairs(prompts: str | Sequence[str], seeds: int | Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield each image's prompt and seed; GenerationError when their numbers do not go together."""
    each_prompt = [prompts] if isinstance(prompts, str) else list(prompts)
    each_seed = [seeds] if isinstance(seeds, int) else list(seeds)
    if len(each_prompt) == 1:
        each_prompt *= len(each_seed)
    if len(each_seed) == 1:
        each_seed *= len(each_prompt)
    if len(each_prompt) != len(each_seed):
        raise GenerationError(
            "give one seed, or one seed per prompt",
            found=f"{len(each_prompt)} prompts, {len(each_seed)} seeds",
            fix="seed=0",
        )
    return zip(each_prompt, each_seed, strict=True)


def _generated(result: Result) -> GeneratedImage:
    error = None if result.error is None else GenerationError.of(result.error)
    return GeneratedImage(result.request.prompt, result.request.seed, result.image, error, result.seconds)


def _as_file(image: ImageSource, path: Path) -> str:
    """Return the path of an image; one in memory is written to `path` first, without loss."""
    if not isinstance(image, Image.Image):
        return str(image)
    as_rgb(image).save(path)
    return str(path)


def load(
    model: str | Path = "nano",
    *,
    device: str = "auto",
    dtype: str = "auto",
    adapters: str | Path | Sequence[str | Path] = (),
    compile: str = "auto",
    memory: str = "high",
    precision: str = "exact",
) -> Model:
    """Load a model: nano, a folder in the published layout, or a hub id such as `zai-org/GLM-Image`.

    `device` is auto, cpu, cuda or cuda:N; `dtype` auto (bfloat16 on a GPU that has it, else float32),
    float32 or bfloat16. `adapters` are folders of `finetune`, each `DIR` or `DIR:WEIGHT`, merged into the weights in
    this order. `compile` is auto (where Triton runs), off or blocks; `memory` "low" keeps one component on the device
    at a time, which is slower. `precision` "8bit" or "4bit" holds the layers in fewer bits, which takes less memory and
    is not exact; adapters then stay beside the weights. Components are read when they are first needed. Raises
    UserError when the model or an adapter cannot be used.
    """
    names = adapter_names(adapters)
    options = InferenceOptions(compile, memory)
    return Model(load_model(model, device, dtype, names, options=options, precision=precision))
