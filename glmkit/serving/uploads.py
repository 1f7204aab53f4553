"""Reading what clients send, with limits that hold before anything is decoded."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import Request as HttpRequest
from starlette.datastructures import UploadFile

from glmkit.errors import UserError
from glmkit.generation.sequence import MAX_CONDITION_IMAGES
from glmkit.inputs.images import stored_size
from glmkit.inputs.quotes import QUOTES
from glmkit.models.checkpoint import defaults
from glmkit.records import Request
from glmkit.serving.fields import LORA, REFUSED
from glmkit.serving.guard import too_large
from glmkit.serving.settings import MODEL, ApiError, ServerSettings
from glmkit.text import parse_json

READ_SECONDS = 60  # in which a request must have arrived
MAX_FIELDS = 32
MAX_SOURCE_PIXELS = 4 * 2048 * 2048
IMAGES = ("image", "image[]")
LISTS = ("texts", "texts[]")


def temporary_folder(stack: ExitStack) -> Path:
    """Make a folder for uploads that goes with `stack`."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glmkit-serve-", ignore_cleanup_errors=True)))


async def read_json(request: HttpRequest, _: Path) -> tuple[dict[str, Any], list[Path]]:
    """Read the fields of a generation. Only JSON is read, which a page of another site cannot send unasked."""
    _check_length(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send Content-Type: application/json")
    try:
        values = parse_json((await request.body()).decode("utf-8-sig"), "the body")
    except (UnicodeDecodeError, UserError) as error:
        found = f": {error.found}" if isinstance(error, UserError) and error.found else ""
        raise ApiError(400, f"the body is no JSON{found}") from error
    if not isinstance(values, dict):
        raise ApiError(400, "the body must be a JSON object")
    return values, []


async def read_form(request: HttpRequest, folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """Read the fields of an edit, and write its images into `folder`."""
    _check_length(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError(415, "send the image and the fields as multipart/form-data")
    values: dict[str, Any] = {}
    images: list[Path] = []
    async with request.form(
        max_files=MAX_CONDITION_IMAGES + 1, max_fields=MAX_FIELDS, max_part_size=request.app.state.max_body
    ) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in IMAGES:
                    if name not in REFUSED:
                        raise ApiError(400, f"{name[:80]} is sent as text, not as a file", param=name)
                    values[name] = "a file"  # which is refused by its name
                    continue
                images.append(folder / f"image-{len(images) + 1}")
                images[-1].write_bytes(await value.read())
                _check_pixels(images[-1], len(images))
            elif name in LISTS:
                values.setdefault("texts", []).append(value)
            elif name in IMAGES:
                raise ApiError(400, "an image is sent as a file", param="image")
            elif name in values:
                raise ApiError(400, f"{name} is given twice", param=name)
            else:
                values[name] = _parsed_list(value) if name == "lora" else value
    if not 1 <= len(images) <= MAX_CONDITION_IMAGES:
        raise ApiError(400, f"an edit takes 1 to {MAX_CONDITION_IMAGES} images, not {len(images)}", param="image")
    return values, images


def _parsed_list(value: str) -> Any:
    """Return the list of adapters that a form's field holds as JSON; a name stays as it is."""
    if not value.startswith("["):
        return value
    try:
        return parse_json(value, "lora")
    except UserError as error:
        raise ApiError(400, LORA, param="lora") from error


def _check_length(request: HttpRequest) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > request.app.state.max_body:
        raise too_large(request.app.state.max_body)


def _check_pixels(path: Path, number: int) -> None:
    """Raise ApiError for an image of too many pixels, as its header says, before anything decodes it."""
    try:
        width, height = stored_size(path, f"image {number}")
    except UserError as error:
        raise ApiError.of(error, "image", "invalid_image") from error
    if width * height > MAX_SOURCE_PIXELS:
        what = f"image {number} has {width}x{height} pixels, more than {MAX_SOURCE_PIXELS}"
        raise ApiError(400, what, param="image", code="too_large")


def named(request: Request, name: str, number: int) -> Request:
    """Return the request under an id of its own."""
    return replace(request, id=f"{name}-{number}")


def describe(folder: Path, settings: ServerSettings) -> dict[str, Any]:
    """Tell what a page needs to know: defaults, limits and adapters."""
    own = defaults.load(folder)
    return {
        "model": MODEL,
        "adapters": list(settings.adapters),
        "width": own.width,
        "height": own.height,
        "steps": own.steps,
        "guidance": own.guidance,
        "max_images": settings.max_images,
        "shortcuts": settings.shortcuts,
        "quotes": QUOTES,
    }
