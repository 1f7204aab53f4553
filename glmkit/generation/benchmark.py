"""How long an image takes, stage by stage, beside diffusers' pipeline on the same weights, and beside the floor.

The floor of a stage is what its arithmetic and its bytes cost at the rates that large products and copies reach on the
same device, measured in the same run: codes read every weight once a step, the decoder's products bound denoising.

Shapes: N image tokens of the decoder, D width.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from glmkit.generation import flow_matching as flow
from glmkit.generation.condition_images import encode_condition_images
from glmkit.generation.denoising import decode_images, denoise
from glmkit.generation.diffusers_pipeline import diffusers_pipeline
from glmkit.generation.loading import load_model
from glmkit.generation.options import InferenceOptions
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.generation.sequence import grids
from glmkit.models.devices import dtype_for
from glmkit.models.hardware import (
    Clock,
    DeviceRates,
    host_peak_gib,
    measure_rates,
    memory_cap,
    peak_memory_gib,
    reset_peak_memory,
)
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

STAGES = ("prior_tokens", "denoising", "vae")
PROMPT = "A blue poster with \"GLMKIT\" in large white letters at the top, a lighthouse, two boats, and 'OPEN' below."


def ours(hybrid: HybridModel, request: Request) -> dict[str, float]:
    """Seconds of each stage and the `total` of one image, from the prompt to the image in memory."""
    clock = Clock(hybrid.device)
    with clock.stage("total"):
        with clock.stage("prior_tokens"):
            condition_images = encode_condition_images(hybrid, [request])
            prior_token_ids = generate_prior_tokens(hybrid, [request], condition_images)
        with clock.stage("denoising"):
            latents = denoise(hybrid, [request], prior_token_ids, condition_images=condition_images)
        with clock.stage("vae"):
            decode_images(hybrid, latents)
    return clock.seconds


def stock(pipe: Any, hybrid: HybridModel, request: Request) -> dict[str, float]:
    """The same of diffusers' pipeline; what is neither codes nor VAE counts as denoising."""
    clock = Clock(hybrid.device)
    with _timed(pipe, "generate_prior_tokens", clock, "prior_tokens"), _timed(pipe.vae, "decode", clock, "vae"):
        with clock.stage("total"):
            pipe(
                prompt=request.prompt,
                height=request.height,
                width=request.width,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance,
                generator=torch.Generator(hybrid.device).manual_seed(request.seed),
            )
    seconds = clock.seconds
    return seconds | {"denoising": seconds["total"] - seconds["prior_tokens"] - seconds["vae"]}


@contextmanager
def _timed(owner: Any, name: str, clock: Clock, stage: str) -> Iterator[None]:
    call = getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        with clock.stage(stage):
            return call(*given, **named)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        delattr(owner, name)  # what the class says shows again


def floors(hybrid: HybridModel, request: Request, at: DeviceRates) -> dict[str, float]:
    """The least seconds of `codes` and `denoising` for one image without sources."""
    model = hybrid.autoregressive
    shape = grids(request.height, request.width)
    tokens = sum(rows * columns for rows, columns in (shape.preview, shape.large))
    read = sum(parameter.nbytes for parameter in model.parameters()) - model.language_model.embed_tokens.weight.nbytes
    passes = 2 if request.guidance > 1 else 1
    work = decoder_flops(hybrid, flow.sequence_length(request.height, request.width)) * passes * request.steps
    return {"prior_tokens": tokens * read / at.bytes, "denoising": work / at.flops}


def decoder_flops(hybrid: HybridModel, tokens: int) -> float:
    """Of one pass over N image tokens: two a weight and token, and attention's two products; glyphs left out."""
    config = hybrid.decoder.config
    weights = 12 * config.width**2  # q, k, v, out, and a feed-forward of four times the width
    return config.num_layers * (2.0 * weights * tokens + 4.0 * tokens**2 * config.width)


def spread(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, least and most of every stage."""
    return {
        stage: {
            "median": statistics.median(run[stage] for run in runs),
            "min": min(run[stage] for run in runs),
            "max": max(run[stage] for run in runs),
        }
        for stage in ("total", *STAGES)
    }


def sparing(folder: Path, request: Request, device: torch.device, cap_gib: float | None) -> dict[str, float]:
    """Seconds and memory of one image in a process of its own that holds one part at a time (`--memory low`):
    `peak_gib` of the device, `host_gib` of the host, of which `host_before_gib` before anything was loaded."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_sparing, folder, request, device, cap_gib).result()


def _sparing(folder: Path, request: Request, device: torch.device, cap_gib: float | None) -> dict[str, float]:
    with memory_cap(device, cap_gib):
        reset_peak_memory(device)  # which is also the first use of a GPU
        before = host_peak_gib()
        hybrid = load_model(folder, device, dtype_for(device), options=InferenceOptions(compile="off", memory="low"))
        total = ours(hybrid, request)["total"]
        return {
            "total": total,
            "peak_gib": peak_memory_gib(device),
            "host_before_gib": before,
            "host_gib": host_peak_gib(),
        }


def compare(hybrid: HybridModel, request: Request, repeats: int, against: bool, stock_repeats: int) -> dict[str, Any]:
    """One row of the benchmark: ours, with `against` also stock's, in turns; the first call of each is apart."""
    device = hybrid.device
    reset_peak_memory(device)
    first = {"glmkit": ours(hybrid, request)["total"]}
    runs: dict[str, list[dict[str, float]]] = {"glmkit": [], "diffusers": []}
    peaks = {"glmkit": peak_memory_gib(device)}
    pipe = diffusers_pipeline(hybrid) if against else None
    if pipe is not None:
        first["diffusers"] = stock(pipe, hybrid, _short(request))["total"]
    for number in range(max(repeats, stock_repeats if against else 0)):
        if number < repeats:
            reset_peak_memory(device)
            runs["glmkit"].append(ours(hybrid, request))
            peaks["glmkit"] = max(peaks["glmkit"], peak_memory_gib(device))
        if pipe is not None and number < stock_repeats:
            reset_peak_memory(device)
            runs["diffusers"].append(stock(pipe, hybrid, request))
            peaks["diffusers"] = max(peaks.get("diffusers", 0.0), peak_memory_gib(device))
    return _row(hybrid, request, {side: spread(of) for side, of in runs.items() if of}, first, peaks)


def _short(request: Request) -> Request:
    """Stock has nothing to compile: one step of a small image warms it up."""
    return Request("warm-up", request.prompt, 0, 256, 256, steps=1, guidance=request.guidance)


def _row(
    hybrid: HybridModel, request: Request, sides: dict[str, Any], first: dict[str, float], peaks: dict[str, float]
) -> dict[str, Any]:
    at = measure_rates(hybrid.device, hybrid.dtype)
    least = {} if hybrid.low_memory else floors(hybrid, request, at)  # which looks at two parts
    stages = {}
    for stage in STAGES:
        stages[stage] = {side: values[stage]["median"] for side, values in sides.items()}
        stages[stage]["share"] = stages[stage]["glmkit"] / sides["glmkit"]["total"]["median"]
        if stage in least and not request.condition_images:
            stages[stage] |= {
                "lower_bound": least[stage],
                "share_of_lower_bound": least[stage] / stages[stage]["glmkit"],
            }
    medians = {side: values["total"]["median"] for side, values in sides.items()}
    return {
        "size": f"{request.width}x{request.height}",
        "steps": request.steps,
        "guidance": request.guidance,
        "condition_images": len(request.condition_images),
        "glmkit": medians["glmkit"],
        "diffusers": medians.get("diffusers"),
        "ratio": medians["diffusers"] / medians["glmkit"] if "diffusers" in medians else None,
        "stages": stages,
        "spread": sides,
        "first_call": first,
        "peak_memory_gib": peaks,
        "rates": {"tflops": at.flops / 1e12, "gbytes": at.bytes / 1e9},
    }
