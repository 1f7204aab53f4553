"""How long an image takes, stage by stage, beside diffusers' pipeline on the same weights, and beside the floor.

The floor of a stage is what its arithmetic and its bytes cost at the rates that large products and copies reach on the
same device, measured in the same run: codes read every weight once a step, the decoder's products bound denoising.

Shapes: N image tokens of the decoder, D width.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

STAGES = ("codes", "denoising", "vae")
PROMPT = "A blue poster with \"GLMKIT\" in large white letters at the top, a lighthouse, two boats, and 'OPEN' below."


@dataclass
class Clock:
    """Seconds of each stage and of the whole image; the device is idle whenever a clock is read."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = self.now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started


def ours(hybrid: HybridModel, request: Request) -> dict[str, float]:
    """Seconds of each stage and the `total` of one image, from the prompt to the image in memory."""
    clock = Clock(hybrid.device)
    with clock.stage("total"):
        with clock.stage("codes"):
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
    with _timed(pipe, "generate_prior_tokens", clock, "codes"), _timed(pipe.vae, "decode", clock, "vae"):
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
    return seconds | {"denoising": seconds["total"] - seconds["codes"] - seconds["vae"]}


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


@dataclass(frozen=True)
class Rates:
    """What the device reaches: FLOP/s of a large product in the model's type, bytes/s read by a large copy."""

    flops: float
    bytes: float


def rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Medians of repeated large products and copies; bytes count reading and writing."""
    side, count = (8192, 2**30) if device.type == "cuda" else (1024, 2**25)
    a = torch.randn(side, side, device=device).to(dtype)
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = median_seconds(lambda: a @ a, device)
    copy = median_seconds(lambda: target.copy_(source), device)
    return Rates(2 * side**3 / product, 2 * count / copy)


def median_seconds(call: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """The median of `repeats` calls after two more."""
    clock, times = Clock(device), []
    for number in range(repeats + 2):
        started = clock.now()
        call()
        if number >= 2:
            times.append(clock.now() - started)
    return statistics.median(times)


def floors(hybrid: HybridModel, request: Request, at: Rates) -> dict[str, float]:
    """The least seconds of `codes` and `denoising` for one image without sources."""
    model = hybrid.autoregressive
    shape = grids(request.height, request.width)
    tokens = sum(rows * columns for rows, columns in (shape.preview, shape.large))
    read = sum(parameter.nbytes for parameter in model.parameters()) - model.language_model.embed_tokens.weight.nbytes
    passes = 2 if request.guidance > 1 else 1
    work = decoder_flops(hybrid, flow.sequence_length(request.height, request.width)) * passes * request.steps
    return {"codes": tokens * read / at.bytes, "denoising": work / at.flops}


def decoder_flops(hybrid: HybridModel, tokens: int) -> float:
    """Of one pass over N image tokens: two a weight and token, and attention's two products; glyphs left out."""
    config = hybrid.decoder.config
    weights = 12 * config.width**2  # q, k, v, out, and a feed-forward of four times the width
    return config.num_layers * (2.0 * weights * tokens + 4.0 * tokens**2 * config.width)


def peak_gib(device: torch.device) -> float:
    """Most memory in use: on a GPU since the last reset, on a CPU by the process so far."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else host_peak_gib()


def host_peak_gib() -> float:
    """Most of the host's memory that this process had so far, pages of mapped files included."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):  # ru_maxrss begins with what the parent held
            return int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


@contextmanager
def capped(device: torch.device, gib: float | None) -> Iterator[None]:
    """Allocate at most `gib` GiB on a GPU, more fails; None: no bound. A CPU has none."""
    if device.type != "cuda" or gib is None:
        yield
        return
    # By index: torch refuses a device without one here.
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, gib * 2**30 / torch.cuda.get_device_properties(index).total_memory), index
    )
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)


def reset_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


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
    with capped(device, cap_gib):
        reset_peak(device)  # which is also the first use of a GPU
        before = host_peak_gib()
        hybrid = load_model(folder, device, dtype_for(device), options=InferenceOptions(compile="off", memory="low"))
        total = ours(hybrid, request)["total"]
        return {"total": total, "peak_gib": peak_gib(device), "host_before_gib": before, "host_gib": host_peak_gib()}


def compare(hybrid: HybridModel, request: Request, repeats: int, against: bool, stock_repeats: int) -> dict[str, Any]:
    """One row of the benchmark: ours, with `against` also stock's, in turns; the first call of each is apart."""
    device = hybrid.device
    reset_peak(device)
    first = {"ours": ours(hybrid, request)["total"]}
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
    peaks = {"ours": peak_gib(device)}
    pipe = diffusers_pipeline(hybrid) if against else None
    if pipe is not None:
        first["stock"] = stock(pipe, hybrid, _short(request))["total"]
    for number in range(max(repeats, stock_repeats if against else 0)):
        if number < repeats:
            reset_peak(device)
            runs["ours"].append(ours(hybrid, request))
            peaks["ours"] = max(peaks["ours"], peak_gib(device))
        if pipe is not None and number < stock_repeats:
            reset_peak(device)
            runs["stock"].append(stock(pipe, hybrid, request))
            peaks["stock"] = max(peaks.get("stock", 0.0), peak_gib(device))
    return _row(hybrid, request, {side: spread(of) for side, of in runs.items() if of}, first, peaks)


def _short(request: Request) -> Request:
    """Stock has nothing to compile: one step of a small image warms it up."""
    return Request("warm-up", request.prompt, 0, 256, 256, steps=1, guidance=request.guidance)


def _row(
    hybrid: HybridModel, request: Request, sides: dict[str, Any], first: dict[str, float], peaks: dict[str, float]
) -> dict[str, Any]:
    at = rates(hybrid.device, hybrid.dtype)
    least = {} if hybrid.low_memory else floors(hybrid, request, at)  # which looks at two parts
    stages = {}
    for stage in STAGES:
        stages[stage] = {side: values[stage]["median"] for side, values in sides.items()}
        stages[stage]["share"] = stages[stage]["ours"] / sides["ours"]["total"]["median"]
        if stage in least and not request.condition_images:
            stages[stage] |= {"floor": least[stage], "of_floor": least[stage] / stages[stage]["ours"]}
    medians = {side: values["total"]["median"] for side, values in sides.items()}
    return {
        "size": f"{request.width}x{request.height}",
        "steps": request.steps,
        "guidance": request.guidance,
        "condition_images": len(request.condition_images),
        "ours": medians["ours"],
        "stock": medians.get("stock"),
        "ratio": medians["stock"] / medians["ours"] if "stock" in medians else None,
        "stages": stages,
        "spread": sides,
        "first_call": first,
        "peak_memory_gib": peaks,
        "rates": {"tflops": at.flops / 1e12, "gbytes": at.bytes / 1e9},
    }
