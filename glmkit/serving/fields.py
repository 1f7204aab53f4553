"""What a client sends, as OpenAI's images API has it, checked, as requests to the model.

Whatever the server does not do is refused by name: nothing that a client asks for is passed over in silence.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, ValidationInfo, field_validator

from glmkit.errors import UserError
from glmkit.generation.requests import check_request, new_request
from glmkit.generation.sequence import grids
from glmkit.inputs.images import read_image
from glmkit.records import Request
from glmkit.serving.settings import MODEL, ApiError, ServerSettings
from glmkit.shortcuts import EXACT_REQUEST
from glmkit.text import check_text

if TYPE_CHECKING:
    from glmkit.models.hybrid import HybridModel

FORMATS = {"png": "PNG", "webp": "WEBP", "jpeg": "JPEG"}
MAX_PARTIAL, MAX_TEXTS, MAX_WEIGHT = 3, 16, 2.0
QUALITIES: Mapping[str, dict[str, Any]] = {
    "medium": {"reuse": 2},
    "low": {"reuse": 2, "guided": 0.5},
}  # the others are exact
REFUSED = {
    "mask": "edits follow the prompt alone; there are no masks",
    "style": "say the style in the prompt",
    "negative_prompt": "GLM-Image has none; say in the prompt what the image shows",
    "input_fidelity": "an edit always reads its images in full",
    "url": "images are sent as files, never by an address",
}
LORA = 'lora is a name, or a list of {"name": NAME, "weight": NUMBER}'
Adapters = tuple[tuple[str, float], ...]


class Body(BaseModel):
    """JSON of a client without unknown fields, and without true or false, which pydantic takes for the numbers 1 and 0.

    `stream` and `vae_tiling` alone are true or false.
    """

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name not in ("stream", "vae_tiling"):
            raise ValueError("it is neither true nor false")
        return value


class NamedLora(Body):
    """An adapter by the name that the server gave it, and its weight beside the one that the server gave it."""

    name: str
    weight: float = 1.0


class Fields(Body):
    """The fields of `/v1/images/generations`, and of `/v1/images/edits` but for its images."""

    prompt: str
    model: str = MODEL
    n: int = Field(default=1, ge=1)
    size: str | None = None
    quality: Literal["auto", "standard", "high", "hd", "medium", "low"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_compression: int | None = Field(default=None, ge=0, le=100)
    response_format: Literal["b64_json"] = "b64_json"
    moderation: Literal["low"] = "low"  # there is none
    stream: StrictBool | Literal["true", "false"] = False
    partial_images: int = Field(default=0, ge=0, le=MAX_PARTIAL)
    user: str | None = None
    safety_identifier: str | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0, le=100)
    texts: list[str] | None = Field(default=None, max_length=MAX_TEXTS)
    lora: str | list[NamedLora] | None = None
    reuse: int = EXACT_REQUEST["reuse"]
    guided: float = EXACT_REQUEST["guided"]
    vae_tiling: bool = EXACT_REQUEST["vae_tiling"]


@dataclass(frozen=True)
class ImageRequest:
    """Hold a request of one image each, the adapters it wants, and how the answer is written.

    `size` and `quality` are said in the answer. `compression` is 0 to 100, None for the format's own.
    """

    requests: tuple[Request, ...]
    adapters: Adapters
    format: str
    compression: int | None
    stream: bool
    partial_images: int
    quality: str

    @property
    def size(self) -> str:
        """Return WIDTHxHEIGHT in pixels."""
        return f"{self.requests[0].width}x{self.requests[0].height}"


def parse(
    values: Mapping[str, Any], hybrid: HybridModel, settings: ServerSettings, images: Sequence[Path] = ()
) -> ImageRequest:
    """Check the fields of a client, and make its requests to the model; ApiError names the wrong field.

    `images` are the files to edit.
    """
    fields = _validated(values)
    _check_limits(fields, settings)
    shortcuts = QUALITIES.get(fields.quality, {}) | {
        name: getattr(fields, name) for name, exact in EXACT_REQUEST.items() if getattr(fields, name) != exact
    }
    if shortcuts and not settings.shortcuts:
        at = next((name for name in shortcuts if name in values), "quality")
        raise ApiError(400, "this server generates exact images only", param=at, code="not_allowed")
    shapes = [_shape(path, f"image {number}", hybrid) for number, path in enumerate(images, start=1)]
    size = None if fields.size in (None, "auto") else fields.size
    param = "size" if size else None
    try:
        request = new_request(
            hybrid.folder,
            "image",
            fields.prompt,
            size=size,
            shape=shapes[0] if shapes else None,
            seed=random.SystemRandom().randrange(2**31) if fields.seed is None else fields.seed,
            steps=fields.num_inference_steps,
            guidance=fields.guidance_scale,
            condition_images=[str(path) for path in images],
            texts=fields.texts,
            **{**EXACT_REQUEST, "vae_tiling": settings.vae_tiling, **shortcuts},
        )
        if request.height * request.width > settings.max_pixels:
            raise UserError(
                f"an image has at most {settings.max_pixels} pixels", found=f"{request.width}x{request.height}"
            )
        if request.steps > settings.max_steps:
            param = "num_inference_steps"
            raise UserError(f"an image takes at most {settings.max_steps} steps", found=request.steps)
        grids(request.height, request.width)
        param = "guided" if request.reuse == 1 else "reuse"
        check_request(request)
    except UserError as error:
        raise ApiError.of(error, param) from error
    seeds = range(request.seed, request.seed + fields.n)
    return ImageRequest(
        tuple(replace(request, seed=seed) for seed in seeds),
        _adapters(fields, settings),
        fields.output_format,
        fields.output_compression,
        fields.stream in (True, "true"),
        fields.partial_images,
        "high" if not shortcuts else fields.quality,
    )


def _shape(path: Path, name: str, hybrid: HybridModel) -> tuple[int, int]:
    """Read an image to edit, and return its width and height in pixels; ApiError for one that no edit takes."""
    settings = hybrid.condition_image_settings
    try:
        image = read_image(path, name)
        settings.halved_size(image.height, image.width)
    except UserError as error:
        raise ApiError.of(error, "image") from error
    return image.size


def _validated(values: Mapping[str, Any]) -> Fields:
    for field, reason in REFUSED.items():
        if values.get(field) is not None:
            raise ApiError(400, f"{field} is not supported: {reason}", param=field, code="unsupported_parameter")
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return Fields.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden":
            raise ApiError(400, f"unknown field {name!r}", param=name, code="unknown_parameter") from error
        what = LORA if name == "lora" else f"{name}: {first['msg']}"
        raise ApiError(400, what, param=name, code="invalid_value") from error


def _check_limits(fields: Fields, settings: ServerSettings) -> None:
    if len(fields.prompt) > settings.max_prompt:
        raise ApiError(400, f"a prompt has at most {settings.max_prompt} characters", param="prompt")
    if sum(map(len, fields.texts or ())) > settings.max_prompt:
        raise ApiError(400, f"texts have at most {settings.max_prompt} characters together", param="texts")
    for param, texts in (("prompt", [fields.prompt]), ("texts", fields.texts or [])):
        for text in texts:
            try:
                check_text(text, "the prompt" if param == "prompt" else "one of the texts")
            except UserError as error:
                raise ApiError.of(error, param) from error
    if fields.n > settings.max_images:
        raise ApiError(400, f"n is at most {settings.max_images} here", param="n")
    if fields.stream in (True, "true") and fields.n > 1:
        raise ApiError(400, "a stream carries one image", param="n")
    if fields.partial_images and fields.stream not in (True, "true"):
        raise ApiError(400, "partial images come in a stream only", param="partial_images")
    if fields.output_compression is not None and fields.output_format == "png":
        raise ApiError(400, "a PNG is not compressed with loss", param="output_compression")


def _adapters(fields: Fields, settings: ServerSettings) -> Adapters:
    """Return the adapters that `model` and `lora` name, with their weights."""
    base, _, named = fields.model.partition(":")
    if base != MODEL or fields.model not in settings.models:
        models = ", ".join(settings.models)
        raise ApiError(
            404, f"there is no model {fields.model[:80]!r} here: {models}", param="model", code="model_not_found"
        )
    loras = [NamedLora(name=fields.lora)] if isinstance(fields.lora, str) else fields.lora or []
    if named:
        loras.insert(0, NamedLora(name=named))
    for lora in loras:
        if lora.name not in settings.adapters:
            known = ", ".join(settings.adapters) or "none"
            raise ApiError(400, f"there is no adapter {lora.name[:80]!r} here: {known}", param="lora")
        if not (math.isfinite(lora.weight) and abs(lora.weight) <= MAX_WEIGHT):
            raise ApiError(400, f"the weight of an adapter is at most {MAX_WEIGHT:g}", param="lora")
    if len({lora.name for lora in loras}) < len(loras):
        raise ApiError(400, "an adapter is named twice", param="lora")
    return tuple((lora.name, lora.weight) for lora in loras if lora.weight)
