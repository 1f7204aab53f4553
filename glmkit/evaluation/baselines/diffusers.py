"""Any text-to-image pipeline of diffusers: PLACE is a preset, a hub id or a folder with model_index.json.

One request at a time with a generator of its own on the CPU, so that an image depends on neither batch nor device.
Steps and guidance are the preset's, else the defaults of the pipeline's class; what the class does not take is not
passed. Presets are the values of the model cards' diffusers examples.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.errors import UserError, unknown
from glmkit.evaluation.baselines import Usual
from glmkit.files import read_json
from glmkit.hashing import fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image

    from glmkit.generation.options import InferenceOptions
    from glmkit.records import Request

INDEX = "model_index.json"
SIDE = 1024  # pixels, when the configs do not say


@dataclass(frozen=True)
class Preset:
    hub_id: str
    steps: int
    guidance: float


PRESETS: Mapping[str, Preset] = {
    "sd3": Preset("stabilityai/stable-diffusion-3-medium-diffusers", 28, 7.0),
    "sd3.5-large": Preset("stabilityai/stable-diffusion-3.5-large", 28, 3.5),
    "sd3.5-large-turbo": Preset("stabilityai/stable-diffusion-3.5-large-turbo", 4, 0.0),
    "sd3.5-medium": Preset("stabilityai/stable-diffusion-3.5-medium", 40, 4.5),
}


class Pipeline:
    local = True
    workers = 1

    def __init__(self, place: str) -> None:
        preset = PRESETS.get(place) or next((known for known in PRESETS.values() if known.hub_id == place), None)
        self._folder = _folder(preset.hub_id if preset else place)
        name, self._takes = _call(self._folder)
        side = _side(self._folder)
        steps, guidance = (_default(self._takes, key) for key in ("num_inference_steps", "guidance_scale"))
        self.usual = Usual(side, side, preset.steps if preset else steps, preset.guidance if preset else guidance)
        self._identity = {"pipeline": name, "model_fingerprint": fingerprint(self._folder)}
        self._pipeline: Any = None

    def identity(self) -> dict[str, Any]:
        return self._identity

    def start(self, device: str, dtype: str, options: InferenceOptions) -> None:
        from diffusers import DiffusionPipeline

        from glmkit.generation.loading import device_of_rank
        from glmkit.models.devices import DTYPES

        at = device_of_rank(device)
        try:
            pipeline = DiffusionPipeline.from_pretrained(self._folder, dtype=DTYPES[dtype], local_files_only=True)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            fix = "download the folder again, or install what it names"
            raise UserError(f"{self._folder} cannot be loaded", found=_first_line(error), fix=fix) from error
        pipeline.set_progress_bar_config(disable=True)
        if options.low_memory and at.type == "cuda":
            pipeline.enable_model_cpu_offload(device=at)
        else:
            pipeline.to(at)
        self._pipeline = pipeline

    def draw(self, request: Request) -> tuple[Image, Mapping[str, str]]:
        import torch

        given = {
            "prompt": request.prompt,
            "height": request.height,
            "width": request.width,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "generator": torch.Generator("cpu").manual_seed(request.seed),
        }
        result = self._pipeline(**{key: value for key, value in given.items() if key in self._takes})
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            raise RuntimeError("withheld by the safety checker of the pipeline")
        return result.images[0], {}

    def note(self) -> str:
        return ""


def load(place: str) -> Pipeline:
    return Pipeline(place)


def _folder(place: str) -> Path:
    folder = Path(place).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{folder} is no pipeline of diffusers", found=f"no {INDEX}", fix=f"the folder with {INDEX}"
            )
        return folder
    if place.count("/") != 1 or place.startswith((".", "/", "~")):
        if "/" in place:
            raise UserError(f"model folder {place} does not exist", fix=f"a folder with {INDEX}, or a hub id")
        raise unknown("preset of diffusers", place, PRESETS)
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(DiffusionPipeline.download(place))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        fix = "check the name and the network, accept its licence on the hub, or give a folder"
        raise UserError(f"cannot get the pipeline {place} from the hub", found=_first_line(error), fix=fix) from error


def _call(folder: Path) -> tuple[str, Mapping[str, inspect.Parameter]]:
    """The name of the pipeline's class, and what calling it takes; UserError when it draws no images from prompts."""
    import diffusers

    named = read_json(folder / INDEX).get("_class_name")
    cls = getattr(diffusers, named, None) if isinstance(named, str) else None
    if cls is None:
        fix = "a pipeline of diffusers itself: code that a model brings along is not run"
        raise UserError(
            f"{folder / INDEX} names no pipeline of diffusers {diffusers.__version__}", found=named, fix=fix
        )
    takes = inspect.signature(cls.__call__).parameters
    if not {"prompt", "generator"} <= set(takes):
        raise UserError(f"{named} draws no images from prompts", fix="a text-to-image pipeline")
    return str(named), takes


def _default(takes: Mapping[str, inspect.Parameter], name: str) -> Any:
    """The default of a parameter; None when there is no such parameter."""
    return takes[name].default if name in takes else None


def _side(folder: Path) -> int:
    """The side that the denoiser was made for, in pixels: its latents times the VAE's factor."""
    latents = [_config(folder, part).get("sample_size") for part in ("transformer", "unet")]
    side = next((value for value in latents if isinstance(value, int)), None)
    blocks = _config(folder, "vae").get("block_out_channels")
    return side * 2 ** (len(blocks) - 1) if side and blocks else SIDE


def _config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / part / "config.json"
    return dict(read_json(path)) if path.exists() else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
