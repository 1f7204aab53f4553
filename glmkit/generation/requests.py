"""Requests: what a person asks for, with the model's defaults for the rest, checked before anything is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from glmkit import errors
from glmkit.config import parse_size
from glmkit.errors import UserError
from glmkit.files import read_jsonl
from glmkit.generation.sampling import Sampling
from glmkit.generation.sequence import MAX_CONDITION_IMAGES, TOKEN_PIXELS, grids
from glmkit.models.checkpoint import defaults
from glmkit.models.semantic_vq.model import MAX_ASPECT
from glmkit.records import Prompt, Request

REQUEST_KEYS = {"id", "prompt", "seed", "size", "steps", "guidance", "condition_images"}
# The prompts of a suite can be generated as they are; what they say about the expected image is not needed here.
IGNORED_KEYS = {field.name for field in fields(Prompt)} - REQUEST_KEYS
NUMBERS: Mapping[str, type | tuple[type, ...]] = {"seed": int, "steps": int, "guidance": (int, float)}
SAFE_ID = re.compile(r"\w[\w.-]*")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows has no files of these names
MAX_STEPS = 1000


def new_request(
    folder: Path,
    id: str,
    prompt: str,
    *,
    size: str | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    condition_images: Sequence[str] = (),
) -> Request:
    """Make a request to the model of a folder, with the model's defaults where a value is None.

    `size` is WIDTHxHEIGHT in pixels; without one an image to edit gives the shape, `shape` (width, height).
    """
    default = defaults.load(folder)
    if size is not None:
        height, width = parse_size(size)
    elif shape is not None:
        width, height = size_like(*shape, default.height * default.width)
    else:
        height, width = default.height, default.width
    return Request(
        id,
        prompt,
        seed,
        height,
        width,
        tuple(condition_images),
        steps=default.steps if steps is None else steps,
        guidance=default.guidance if guidance is None else guidance,
    )


def size_like(width: int, height: int, area: int) -> tuple[int, int]:
    """Return (width, height), multiples of 32, of about `area` pixels in the shape of an image of this size."""
    scale = math.sqrt(area / (width * height))
    sides = [max(TOKEN_PIXELS, round(side * scale / TOKEN_PIXELS) * TOKEN_PIXELS) for side in (width, height)]
    limit = MAX_ASPECT * min(sides)
    return min(sides[0], limit), min(sides[1], limit)


def check_request(request: Request) -> None:
    """Raise UserError for a request that no model can serve. Condition images are not opened here."""
    if not request.prompt.strip():
        raise UserError(
            "the prompt is empty", fix="say what to generate, for example \"a red poster with the word 'HELLO'\""
        )
    grids(request.height, request.width)
    if not 1 <= request.steps <= MAX_STEPS:
        raise UserError(f"the number of steps must be 1 to {MAX_STEPS}", found=request.steps, fix="--steps 30")
    if not (math.isfinite(request.guidance) and request.guidance >= 0):
        raise UserError("guidance must be a number of at least 0", found=request.guidance, fix="--guidance 1.5")
    if not 0 <= request.seed < 2**63:
        raise UserError("a seed must be a whole number from 0 to 2^63 - 1", found=request.seed, fix="--seed 0")
    if len(request.condition_images) > MAX_CONDITION_IMAGES:
        raise UserError(f"an edit takes 1 to {MAX_CONDITION_IMAGES} images", found=len(request.condition_images))
    sampling_of(request)


def sampling_of(request: Request) -> Sampling:
    """Return how the request's prior tokens are sampled; UserError for values out of range."""
    return Sampling(request.temperature, request.top_p, request.top_k)


def batch_settings(request: Request) -> tuple[object, ...]:
    """Return what the requests of one batch must have in common."""
    settings = (request.height, request.width, bool(request.condition_images), request.steps, request.guidance)
    return (*settings, request.temperature, request.top_p, request.top_k)


def read_requests(path: Path, base: Request) -> list[Request]:
    """Read requests from a JSONL file: `prompt`, and optionally `id`, `seed`, `size`, `steps`, `guidance`,
    `condition_images`.

    What a record does not say is taken from `base`; ids default to the record's number; paths of images are relative
    to the file. UserError names the record that cannot be served.
    """
    requests: list[Request] = []
    for number, record in enumerate(read_jsonl(path), start=1):
        try:
            requests.append(_request_of(record, replace(base, id=f"{number:04d}"), path.parent))
        except UserError as error:
            raise UserError(f"{path}, record {number}: {error.what}", found=error.found, fix=error.fix) from error
    if not requests:
        raise UserError(f"{path} has no records", fix='one object per line: {"id": "first", "prompt": "a red poster"}')
    ids: set[str] = set()
    for request in requests:
        file = request.id.casefold()  # Windows and macOS do not tell file names apart by case
        if file in ids:
            raise UserError(f"{path}: two records have the id {request.id!r}", fix="give every record another id")
        ids.add(file)
    return requests


def _request_of(record: dict[str, Any], base: Request, folder: Path) -> Request:
    for key in record:
        if key not in REQUEST_KEYS | IGNORED_KEYS:
            raise errors.unknown("key", key, REQUEST_KEYS)
    values = {key: record[key] for key in ("id", "prompt", *NUMBERS) if record.get(key) is not None}
    if not isinstance(values.get("prompt"), str):
        raise UserError("the prompt is missing", found=record)
    for key, kind in NUMBERS.items():
        if key in values and (not isinstance(values[key], kind) or isinstance(values[key], bool)):
            raise UserError(f"{key} is not a number", found=repr(values[key]))
    values["id"] = str(values.get("id", base.id))
    if not SAFE_ID.fullmatch(values["id"]):
        raise UserError("an id must be a file name of letters, digits, '_', '-' and '.'", found=values["id"])
    if RESERVED.fullmatch(values["id"]):
        raise UserError("an id must not be a name that Windows reserves", found=values["id"], fix="another id")
    if record.get("size") is not None:
        values["height"], values["width"] = parse_size(str(record["size"]))
    if record.get("condition_images"):
        if not isinstance(record["condition_images"], list):
            raise UserError("condition_images must be a list of paths", found=record["condition_images"])
        values["condition_images"] = tuple(str(folder / path) for path in record["condition_images"])
    request = replace(base, **values)
    check_request(request)
    return request
