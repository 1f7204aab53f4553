"""Any text-to-image pipeline of diffusers: NAME is a preset, a hub id or a folder with model_index.json.

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
from glmkit.evaluation.baselines import BaselineDefaults
from glmkit.hashing import fingerprint
from glmkit.models.checkpoint.configs import read_config

if TYPE_CHECKING:
    from PIL.Image import Image

    from glmkit.generation.options import InferenceOptions
    from glmkit.records import Request

INDEX = "model_index.json"
SIDE = 1024  # pixels, when the configs do not say


@dataclass(frozen=True)
class ModelPreset:
    """Hold the steps and guidance of a model card."""

    hub_id: str
    steps: int
    guidance: float


PRESETS: Mapping[str, ModelPreset] = {
    "sd3": ModelPreset("stabilityai/stable-diffusion-3-medium-diffusers", 28, 7.0),
    "sd3.5-large": ModelPreset("stabilityai/stable-diffusion-3.5-large", 28, 3.5),
    "sd3.5-large-turbo": ModelPreset("stabilityai/stable-diffusion-3.5-large-turbo", 4, 0.0),
    "sd3.5-medium": ModelPreset("stabilityai/stable-diffusion-3.5-medium", 40, 4.5),
}


class DiffusersBaseline:
    """Generate with a pipeline of diffusers, one request at a time."""

    is_local = True
    workers = 1

    def __init__(self, name: str) -> None:
        preset = PRESETS.get(name) or next((known for known in PRESETS.values() if known.hub_id == name), None)
        self._folder = _folder(preset.hub_id if preset else name)
        name, self._takes = _call(self._folder)
        side = _side(self._folder)
        steps, guidance = (_default(self._takes, key) for key in ("num_inference_steps", "guidance_scale"))
        self.defaults = BaselineDefaults(
            side, side, preset.steps if preset else steps, preset.guidance if preset else guidance
        )
        self._identity = {"pipeline": name, "model_fingerprint": fingerprint(self._folder)}
        self._pipeline: Any = None

    def identity(self) -> dict[str, Any]:
        """Name the class and the fingerprint of the weights."""
        return self._identity

    def prepare(self, device: str, dtype: str, options: InferenceOptions) -> None:
        """Load the pipeline; UserError for a folder that is broken."""
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

    def generate(self, request: Request) -> tuple[Image, Mapping[str, str]]:
        """Generate with what the class of the pipeline takes of the request."""
        import torch

        arguments = {
            "prompt": request.prompt,
            "height": request.height,
            "width": request.width,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "generator": torch.Generator("cpu").manual_seed(request.seed),
        }
        result = self._pipeline(**{key: value for key, value in arguments.items() if key in self._takes})
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            raise RuntimeError("withheld by the safety checker of the pipeline")
        return result.images[0], {}

    def progress_note(self) -> str:
        """Have nothing to say."""
        return ""


def load(name: str) -> DiffusersBaseline:
    """Find a preset, a hub id or a folder; loads no weights yet."""
    return DiffusersBaseline(name)


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{folder} is no pipeline of diffusers", found=f"no {INDEX}", fix=f"the folder with {INDEX}"
            )
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        if "/" in name:
            raise UserError(f"model folder {name} does not exist", fix=f"a folder with {INDEX}, or a hub id")
        raise unknown("preset of diffusers", name, PRESETS)
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(DiffusionPipeline.download(name))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        fix = "check the name and the network, accept its licence on the hub, or give a folder"
        raise UserError(f"cannot get the pipeline {name} from the hub", found=_first_line(error), fix=fix) from error


def _call(folder: Path) -> tuple[str, Mapping[str, inspect.Parameter]]:
    """Look up the pipeline's class, and what calling it takes; UserError when it makes no images from prompts."""
    import diffusers

    class_name = read_config(folder / INDEX, {}).get("_class_name")
    cls = getattr(diffusers, class_name, None) if isinstance(class_name, str) else None
    if cls is None:
        fix = "a pipeline of diffusers itself: code that a model brings along is not run"
        raise UserError(
            f"{folder / INDEX} names no pipeline of diffusers {diffusers.__version__}", found=class_name, fix=fix
        )
    takes = inspect.signature(cls.__call__).parameters
    if not {"prompt", "generator"} <= set(takes):
        raise UserError(f"{class_name} makes no images from prompts", fix="a text-to-image pipeline")
    return str(class_name), takes


def _default(takes: Mapping[str, inspect.Parameter], name: str) -> Any:
    """Read the default of a parameter; None when there is no such parameter."""
    return takes[name].default if name in takes else None


def _side(folder: Path) -> int:
    """Calculate the side that the denoiser was made for, in pixels: its latents times the VAE's factor."""
    latents = [_config(folder, component).get("sample_size") for component in ("transformer", "unet")]
    side = next((value for value in latents if isinstance(value, int)), None)
    blocks = _config(folder, "vae").get("block_out_channels")
    return side * 2 ** (len(blocks) - 1) if side and blocks else SIDE


def _config(folder: Path, component: str) -> dict[str, Any]:
    path = folder / component / "config.json"
    return read_config(path, {"block_out_channels": [1]}) if path.exists() else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
