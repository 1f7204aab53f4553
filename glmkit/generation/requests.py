"""Requests: what a person asks for, with the model's defaults for the rest, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glmkit.errors import UserError
from glmkit.generation.flow_matching import full_steps
from glmkit.generation.sampling import Sampling
from glmkit.generation.sequence import MAX_CONDITION_IMAGES, TOKEN_PIXELS, check_prompt, grids
from glmkit.inputs.prompts import FilePrompt, read_prompts
from glmkit.inputs.quotes import quoted_texts
from glmkit.models.checkpoint import defaults
from glmkit.models.semantic_vq.model import MAX_ASPECT
from glmkit.records import Request
from glmkit.sizes import parse_size
from glmkit.temporary_files import MAX_NAME_BYTES
from glmkit.text import check_text

MAX_STEPS = 1000
REUSE = (2, 3)  # every so many steps through the decoder's blocks


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
    texts: Sequence[str] | None = None,
    reuse: int = Request.reuse,
    guided: float = Request.guided,
    vae_tiling: bool = Request.vae_tiling,
) -> Request:
    """Make a request to the model of a folder, with the model's defaults where a value is None.

    `size` is WIDTHxHEIGHT in pixels; without one an image to edit gives the shape, `shape` (width, height).
    `texts` are those to render, where the quotes of the prompt do not say them.
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
        texts=None if texts is None or list(texts) == quoted_texts(prompt) else tuple(texts),
        steps=default.steps if steps is None else steps,
        guidance=default.guidance if guidance is None else guidance,
        reuse=reuse,
        guided=guided,
        vae_tiling=vae_tiling,
        **default.sampling,
    )


def size_like(width: int, height: int, area: int) -> tuple[int, int]:
    """Return (width, height), multiples of 32, of about `area` pixels in the shape of an image of this size."""
    scale = math.sqrt(area / (width * height))
    sides = [max(TOKEN_PIXELS, round(side * scale / TOKEN_PIXELS) * TOKEN_PIXELS) for side in (width, height)]
    limit = MAX_ASPECT * min(sides)
    return min(sides[0], limit), min(sides[1], limit)


def check_request(request: Request) -> None:
    """Raise UserError for a request that no model can serve. Condition images are not opened here."""
    check_prompt(request.prompt)
    for text in request.texts or ():
        check_text(text, "one of the texts")
    if len(f"{request.id}.png".encode(errors="replace")) > MAX_NAME_BYTES:
        raise UserError("the name of the image is too long", found=f"{request.id[:40]}...", fix="a shorter name or id")
    grids(request.height, request.width)
    if not 1 <= request.steps <= MAX_STEPS:
        raise UserError(f"the number of steps must be 1 to {MAX_STEPS}", found=request.steps, fix="--steps 30")
    if not (math.isfinite(request.guidance) and request.guidance >= 0):
        raise UserError("guidance must be a number of at least 0", found=request.guidance, fix="--guidance 1.5")
    _check_shortcuts(request)
    if not 0 <= request.seed < 2**63:
        raise UserError("a seed must be a whole number from 0 to 2^63 - 1", found=request.seed, fix="--seed 0")
    if len(request.condition_images) > MAX_CONDITION_IMAGES:
        raise UserError(f"an edit takes 1 to {MAX_CONDITION_IMAGES} images", found=len(request.condition_images))
    sampling_of(request)


def _check_shortcuts(request: Request) -> None:
    """Raise UserError for shortcuts that do not exist, or that would shorten nothing."""
    if request.reuse not in (1, *REUSE):
        raise UserError("reuse must be 2 or 3, or 1 for none", found=request.reuse, fix="--reuse 2")
    if request.reuse > 1 and all(full_steps(request.steps, request.reuse)):
        what = f"so few steps leave nothing to a reuse of {request.reuse}"
        raise UserError(what, found=f"{request.steps} steps", fix="more steps, or no --reuse")
    if not 0 < request.guided <= 1:
        fix = "--guided 0.5, or --guidance 1 for no guidance"
        raise UserError("guided must be a share of the steps, above 0 and at most 1", found=request.guided, fix=fix)
    if request.guided < 1 and request.guidance <= 1:
        found = f"guided {request.guided}, guidance {request.guidance}"
        raise UserError("guided is a share of the steps with guidance, which is off", found=found, fix="no --guided")


def sampling_of(request: Request) -> Sampling:
    """Return how the request's prior tokens are sampled; UserError for values out of range."""
    return Sampling(request.temperature, request.top_p, request.top_k)


def batch_settings(request: Request) -> tuple[object, ...]:
    """Return what the requests of one batch must have in common."""
    image = (request.height, request.width, bool(request.condition_images))
    decoder = (request.steps, request.guidance, request.reuse, request.guided, request.vae_tiling)
    return (*image, *decoder, request.temperature, request.top_p, request.top_k)


def read_requests(
    path: Path, base: Request, count: int = 1, seeds: Sequence[int] = ()
) -> tuple[list[Request], dict[str, UserError]]:
    """Make the requests of a prompt file (`glmkit.inputs.prompts`), and by their ids the errors of those without use.

    What a record does not say is taken from `base`. `count` images of each prompt have its seed and those after it;
    `seeds` are those of every prompt. UserError for what concerns the whole file, or when no record can be used.
    """
    requests: list[Request] = []
    failed: dict[str, UserError] = {}
    prompts = read_prompts(path)
    for number, prompt in enumerate(prompts, start=1):
        if seeds and prompt.seed is not None:
            found = f"seed {prompt.seed} in record {number}"
            raise UserError(f"{path} gives seeds, too, beside --seeds", found=found, fix="leave out one of them")
        request = replace(base, id=prompt.id, prompt=prompt.prompt)
        try:
            request = _request_of(prompt, request)
            each = requests_of(request, count, seeds)
            for one in each:
                check_request(one)
        except UserError as error:
            failed[request.id] = UserError(f"record {number}: {error.what}", found=error.found, fix=error.fix)
            each = [request]
        requests += each
    if len(failed) == len(prompts):
        first = next(iter(failed.values()))
        raise UserError(f"{path}, {first.what}", found=first.found, fix=first.fix)
    return requests, failed


def _request_of(prompt: FilePrompt, base: Request) -> Request:
    if prompt.error is not None:
        raise prompt.error
    values = {key: getattr(prompt, key) for key in ("texts", "seed", "steps", "guidance", "condition_images")}
    if prompt.size is not None:
        values["height"], values["width"] = parse_size(prompt.size)
    return replace(base, **{key: value for key, value in values.items() if value is not None})


def requests_of(request: Request, count: int, seeds: Sequence[int] = ()) -> list[Request]:
    """Return the request once for each of several seeds, which its ids name then: `count` from its own, or `seeds`."""
    if count == 1 and not seeds:
        return [request]
    each = seeds or range(request.seed, request.seed + count)
    return [replace(request, id=f"{request.id}_{seed}".lstrip("_"), seed=seed) for seed in each]
