"""How long an image takes, stage by stage, beside diffusers' pipeline on the same weights, and beside a lower bound.

The lower bound (roofline) of a stage is what its arithmetic or its bytes cost at the rates that large products and
copies reach on the same device, measured in the same run: a decoding step reads every weight of the AR model once, the
decoder's products bound denoising.

Shapes: N image tokens of the decoder, D width.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from glmkit.generation import flow_matching
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
from glmkit.models.quantized import PackedLinear
from glmkit.records import Request

STAGES = ("prior_tokens", "denoising", "vae")
PROMPT = "A blue poster with \"GLMKIT\" in large white letters at the top, a lighthouse, two boats, and 'OPEN' below."


def measure_latency(hybrid: HybridModel, request: Request) -> dict[str, float]:
    """Measure the seconds of each stage and the `total` of one image, from the prompt to the image in memory."""
    clock = Clock(hybrid.device)
    with clock.stage("total"):
        with clock.stage("prior_tokens"):
            condition_images = encode_condition_images(hybrid, [request])
            prior_token_ids = generate_prior_tokens(hybrid, [request], condition_images)
        with clock.stage("denoising"):
            latents = denoise(hybrid, [request], prior_token_ids, condition_images=condition_images)
        with clock.stage("vae"):
            decode_images(hybrid, latents, request.vae_tiling)
    return clock.seconds


def measure_diffusers_latency(pipe: Any, hybrid: HybridModel, request: Request) -> dict[str, float]:
    """Measure the same of diffusers' pipeline; what is neither prior tokens nor VAE counts as denoising."""
    clock = Clock(hybrid.device)
    with (
        _timed(pipe, "generate_prior_tokens", clock, "prior_tokens"),
        _timed(pipe.vae, "decode", clock, "vae"),
        clock.stage("total"),
    ):
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
    method = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.stage(stage):
            return method(*args, **kwargs)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        delattr(owner, name)  # the method of the class shows again


def lower_bounds(hybrid: HybridModel, request: Request, rates: DeviceRates) -> dict[str, float]:
    """Return the least seconds of `prior_tokens` and `denoising` for one image without condition images."""
    model = hybrid.autoregressive
    shape = grids(request.height, request.width)
    tokens = sum(rows * columns for rows, columns in (shape.preview, shape.large))
    embeddings = model.language_model.embed_tokens.weight.nbytes  # of which one step reads one row
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters()) - embeddings
    weight_bytes += sum(layer.matrix.nbytes for layer in model.modules() if isinstance(layer, PackedLinear))
    pass_flops = decoder_flops(hybrid, flow_matching.sequence_length(request.height, request.width))
    return {
        "prior_tokens": tokens * weight_bytes / rates.bytes,
        "denoising": pass_flops * decoder_passes(request) / rates.flops,
    }


def decoder_passes(request: Request) -> int:
    """Count how often an image goes through the decoder's blocks, both halves of guidance."""
    full = flow_matching.full_steps(request.steps, request.reuse)
    return sum(full) + sum(full[: flow_matching.guided_steps(request.steps, request.guidance, request.guided)])


def decoder_flops(hybrid: HybridModel, tokens: int) -> float:
    """Count the FLOPs of one pass over N image tokens: two per weight and token, and attention's two products.

    Glyph tokens are left out.
    """
    config = hybrid.decoder.config
    weights = 12 * config.width**2  # q, k, v, out, and a feed-forward of four times the width
    return config.num_layers * (2.0 * weights * tokens + 4.0 * tokens**2 * config.width)


def measure_low_memory(folder: Path, request: Request, device: torch.device, cap_gib: float | None) -> dict[str, float]:
    """Measure one image in a process of its own that holds one component at a time (`--memory low`).

    Returns seconds in `total`, `peak_gib` of the device, and `host_gib` of the host, of which `host_before_gib` before
    anything was loaded. At most `cap_gib` GiB of a GPU are given.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_low_memory, folder, request, device, cap_gib).result()


def _measure_low_memory(
    folder: Path, request: Request, device: torch.device, cap_gib: float | None
) -> dict[str, float]:
    with memory_cap(device, cap_gib):
        reset_peak_memory(device)  # which is also the first use of a GPU
        before = host_peak_gib()
        hybrid = load_model(folder, device, dtype_for(device), options=InferenceOptions(compile="off", memory="low"))
        total = measure_latency(hybrid, request)["total"]
        return {
            "total": total,
            "peak_gib": peak_memory_gib(device),
            "host_before_gib": before,
            "host_gib": host_peak_gib(),
        }


def compare(hybrid: HybridModel, request: Request, repeats: int, diffusers_repeats: int = 0) -> dict[str, Any]:
    """Measure images of one size, glmkit's and diffusers' in turns; the first call of each is apart.

    `diffusers_repeats` 0 leaves diffusers out.
    """
    device = hybrid.device
    # 1. The first call compiles; diffusers' has nothing to compile, so a small image warms it up.
    reset_peak_memory(device)
    first_call = {"glmkit": measure_latency(hybrid, request)["total"]}
    peaks = {"glmkit": peak_memory_gib(device)}
    pipe = None
    if diffusers_repeats:
        pipe = diffusers_pipeline(hybrid)
        short = Request("warm-up", request.prompt, 0, 256, 256, steps=1, guidance=request.guidance)
        first_call["diffusers"] = measure_diffusers_latency(pipe, hybrid, short)["total"]
    # 2. Both in turns, so that whatever else the machine does meets both.
    runs: dict[str, list[dict[str, float]]] = {"glmkit": [], "diffusers": []}
    for number in range(max(repeats, diffusers_repeats)):
        if number < repeats:
            reset_peak_memory(device)
            runs["glmkit"].append(measure_latency(hybrid, request))
            peaks["glmkit"] = max(peaks["glmkit"], peak_memory_gib(device))
        if number < diffusers_repeats:
            reset_peak_memory(device)
            runs["diffusers"].append(measure_diffusers_latency(pipe, hybrid, request))
            peaks["diffusers"] = max(peaks.get("diffusers", 0.0), peak_memory_gib(device))
    # 3. Medians, and how near they are to the lower bound.
    spread = {side: _spread(of_side) for side, of_side in runs.items() if of_side}
    rates = measure_rates(device, hybrid.dtype)
    medians = {side: stages["total"]["median"] for side, stages in spread.items()}
    return {
        "size": f"{request.width}x{request.height}",
        "steps": request.steps,
        "guidance": request.guidance,
        "reuse": request.reuse,
        "guided": request.guided,
        "vae_tiling": request.vae_tiling,
        "precision": hybrid.precision,
        "condition_images": len(request.condition_images),
        "glmkit": medians["glmkit"],
        "diffusers": medians.get("diffusers"),
        "ratio": medians["diffusers"] / medians["glmkit"] if "diffusers" in medians else None,
        "stages": _stages(hybrid, request, spread, rates),
        "spread": spread,
        "first_call": first_call,
        "peak_memory_gib": peaks,
        "rates": {"tflops": rates.flops / 1e12, "gbytes": rates.bytes / 1e9},
    }


def _spread(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return median, least and most of every stage."""
    return {
        stage: {
            "median": statistics.median(run[stage] for run in runs),
            "min": min(run[stage] for run in runs),
            "max": max(run[stage] for run in runs),
        }
        for stage in ("total", *STAGES)
    }


def _stages(
    hybrid: HybridModel, request: Request, spread: Mapping[str, Mapping[str, Any]], rates: DeviceRates
) -> dict[str, dict[str, float]]:
    """Return the medians of every stage, its share of glmkit's time, and its lower bound where there is one."""
    # Bounds need two components at once, and an edit does more than they count.
    bounded = not hybrid.low_memory and not request.condition_images
    bounds = lower_bounds(hybrid, request, rates) if bounded else {}
    stages: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        values = {side: of_side[stage]["median"] for side, of_side in spread.items()}
        values["share"] = values["glmkit"] / spread["glmkit"]["total"]["median"]
        if stage in bounds:
            values |= {"lower_bound": bounds[stage], "share_of_lower_bound": bounds[stage] / values["glmkit"]}
        stages[stage] = values
    return stages
