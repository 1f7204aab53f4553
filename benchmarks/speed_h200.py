"""Latency, throughput and memory of the published sizes on one GPU, with random weights, in one run of a few minutes.

    python benchmarks/speed_h200.py OUT_FOLDER [--model full|nano|FOLDER] [--only SECTION ...] [--seconds 460]

Each result is printed and written to OUT_FOLDER/<section>.json as soon as it is measured, so that a run that is cut
short has what it measured. A section that fails has its error as result. Sections run in the order of --only:

    tokens     latency of prefill and of a decoding step: batches 1, 16, 64; short and long prompts; edits
    decoder    latency of all denoising steps, reckoned from some, and of the VAE, beside diffusers' and how far apart
    images     latency of whole images, warm, of each size and an edit; the first call, of two steps, apart
    memory     `--memory low` under a hard cap, from files (random weights take 35 GB of disk): peaks on GPU and host
    agreement  images of glmkit and of diffusers from the same tokens and noise; by kernels and eager; a seed twice
    batch      throughput: images per hour of many requests
    diffusers  diffusers' pipeline on the same weights, in turns
    trace      where the time of a token, of a denoising step and of the VAE goes, by kernel
"""

from __future__ import annotations

import argparse
import copy
import datetime
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoding_time import time_decoding
from PIL import Image

from glmkit import runs
from glmkit.distributed.process_group import SINGLE_PROCESS
from glmkit.files import write_json
from glmkit.generation import denoising
from glmkit.generation.batch import Result
from glmkit.generation.benchmark import PROMPT, compare, lower_bounds, measure_latency, measure_low_memory
from glmkit.generation.diffusers_pipeline import diffusers_pipeline
from glmkit.generation.hybrid_generator import HybridGenerator
from glmkit.generation.loading import load_model
from glmkit.generation.options import InferenceOptions
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.generation.random_model import RandomModel, open_model
from glmkit.generation.sequence import grids
from glmkit.models import checkpoint
from glmkit.models.devices import dtype_for, pick_device
from glmkit.models.hardware import Clock, measure_rates, median_seconds, peak_memory_gib, reset_peak_memory
from glmkit.models.hybrid import HybridModel
from glmkit.models.vae.model import Vae
from glmkit.records import Request

Row = dict[str, Any]
Rows = Iterator[Row]
FEW_STEPS, SOME_STEPS = 2, 8  # of denoising: enough to compile, and to tell what one step takes


@dataclass(frozen=True)
class Scale:
    """What is measured: at full size the sizes that people generate, at toy size the same code in seconds."""

    sides: tuple[int, ...] = (1024, 512, 2048)
    steps: int = 30
    batches: tuple[int, ...] = (1, 16, 64)
    prompts: tuple[int, ...] = (50, 1000)
    timed_tokens: int = 300  # those in the middle of an image
    throughput_images: int = 8
    compared_images: int = 8  # with those of diffusers
    capped_gib: tuple[tuple[int, float], ...] = ((1024, 24.0), (2048, 40.0))


TOY = Scale((64, 96), 2, (1, 3), (8, 40), 3, 3, 2, ((64, 1.0),))


@dataclass(frozen=True)
class Bench:
    """A model, what to measure, and a folder for condition images and prior tokens."""

    hybrid: HybridModel
    scale: Scale
    scratch: Path

    def request(self, side: int, **changes: Any) -> Request:
        return replace(Request("speed", PROMPT, 0, side, side, steps=self.scale.steps), **changes)

    def condition_image(self, side: int) -> str:
        path = self.scratch / f"condition-{side}.png"
        Image.effect_noise((side, side), 80).convert("RGB").save(path)
        return str(path)

    @property
    def clock(self) -> Clock:
        return Clock(self.hybrid.device)


def tokens(bench: Bench) -> Rows:
    for kind in ("text", "edit"):
        for batch in bench.scale.batches:
            for length in bench.scale.prompts:
                yield _steps(bench, kind, batch, length)


def _steps(bench: Bench, kind: str, batch: int, length: int) -> Row:
    """Time one step while half of an image is generated, and prefill, both on the device's clock.

    The prompt of an edit has the tokens of its condition image besides.
    """
    shape = grids(bench.scale.sides[0], bench.scale.sides[0])
    preview, large = (height * width for height, width in (shape.preview, shape.large))
    prompt, total = (length + large, large) if kind == "edit" else (length, preview + large)
    timed = min(bench.scale.timed_tokens, total)
    before = prompt + (total - timed) // 2  # a longer prompt stands for the tokens before
    clock = bench.clock
    with clock.stage("first_s"):
        time_decoding(bench.hybrid, batch, before, timed)
    step = time_decoding(bench.hybrid, batch, before, timed)[1] / (timed - 1)
    prefill = time_decoding(bench.hybrid, batch, prompt, 1)[0]
    row = {"case": f"{kind}, batch {batch}, prompt {length}", "ms_per_step": 1e3 * step, "prefill_s": prefill}
    return row | {"prior_tokens_s": prefill + step * (total - 1), "steps_timed": timed - 1} | clock.seconds


def decoder(bench: Bench) -> Rows:
    rates = measure_rates(bench.hybrid.device, bench.hybrid.dtype)
    decode_by_diffusers = _diffusers_vae(bench.hybrid)
    for side in bench.scale.sides:
        request, clock = bench.request(side), bench.clock
        prior_token_ids = torch.zeros(side // 32, side // 32, dtype=torch.int64, device=bench.hybrid.device)
        for name, steps in (("first_s", FEW_STEPS), ("few", FEW_STEPS), ("some", SOME_STEPS)):
            with clock.stage(name):
                latents = denoising.denoise(bench.hybrid, [replace(request, steps=steps)], [prior_token_ids])
        few, some = clock.seconds.pop("few"), clock.seconds.pop("some")
        step = (some - few) / (SOME_STEPS - FEW_STEPS)
        seconds = few + step * (request.steps - FEW_STEPS)
        with clock.stage("first_vae_s"):
            pixels = denoising.decode_latents(bench.hybrid, latents)
        reference = decode_by_diffusers(latents)
        vae, diffusers_vae = (
            median_seconds(partial(decode, latents), bench.hybrid.device, 3)
            for decode in (partial(denoising.decode_latents, bench.hybrid), decode_by_diffusers)
        )
        error = float((pixels - reference).square().mean().sqrt() / reference.square().mean().sqrt())
        bound = lower_bounds(bench.hybrid, request, rates)["denoising"]
        row = {"case": f"{side}x{side}, {request.steps} steps", "denoising_s": seconds, "ms_per_step": 1e3 * step}
        row |= clock.seconds | {"vae_s": vae, "diffusers_vae_s": diffusers_vae, "vae_error": error}
        yield row | {"lower_bound_s": bound, "share_of_lower_bound": bound / seconds}


def _diffusers_vae(hybrid: HybridModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the same weights by diffusers alone, in the layout in which they are quicker there."""
    autoencoder = copy.deepcopy(hybrid.vae.autoencoder).to(memory_format=torch.contiguous_format)
    vae = Vae(autoencoder).to(hybrid.device)

    @torch.inference_mode()
    def decode(latents: torch.Tensor) -> torch.Tensor:
        return vae.decode(latents).float()

    return decode


def images(bench: Bench) -> Rows:
    first, *others = bench.scale.sides
    cases = [(f"{first}x{first}", bench.request(first))]
    edit = bench.request(first, condition_images=(bench.condition_image(first),))
    cases.append((f"edit {first}x{first}", edit))
    cases += [(f"{side}x{side}", bench.request(side)) for side in others]
    for name, request in cases:
        reset_peak_memory(bench.hybrid.device)
        warm_up = measure_latency(bench.hybrid, replace(request, steps=FEW_STEPS))["total"]
        seconds = measure_latency(bench.hybrid, request)
        yield {"case": name, "first_s": warm_up} | seconds | {"peak_gib": peak_memory_gib(bench.hybrid.device)}


def memory(bench: Bench) -> Rows:
    """Measure a process of its own with one component at a time, read from files, under a cap that the driver enforces;
    on a CPU, which has no cap, only what the process takes."""
    device = bench.hybrid.device
    bench.hybrid.unload(*checkpoint.COMPONENTS)  # the next section makes them again
    if isinstance(bench.hybrid, RandomModel):
        _save(bench.hybrid)
    folder = bench.hybrid.folder
    largest = max(
        sum(tensor.bytes for tensor in checkpoint.stored_tensors(folder, component).values())
        for component in checkpoint.COMPONENTS
    )
    for side, cap in bench.scale.capped_gib:
        row = measure_low_memory(folder, bench.request(side), device, cap)
        yield {"case": f"{side}x{side} under {cap} GiB"} | row | {"largest_component_gib": largest / 2**30}


def _save(random: RandomModel) -> None:
    """Write the weights of a model that has none on disk, 35 GB of them, as they were before they were optimized."""
    plain = RandomModel(random.folder, random.device, random.dtype)
    for component in reversed(checkpoint.COMPONENTS):  # the small one of a folder first, since the other rewrites it
        checkpoint.save_component(plain.folder, component, getattr(plain, component))
        plain.unload(component)


def agreement(bench: Bench) -> Rows:
    """Compare images of nano's trained weights in the device's type, of several seeds, from the same tokens and noise.

    One image says little: it may be one of which rounding decides more than of others.
    """
    device = bench.hybrid.device
    eager, compiled = (
        load_model("nano", device, dtype_for(device), options=InferenceOptions(compile="blocks" if on else "off"))
        for on in (False, device.type == "cuda")
    )
    pipeline = diffusers_pipeline(eager)
    psnrs: dict[str, list[float]] = {"glmkit and diffusers": [], "kernels and eager": []}
    first = replace(bench.request(256), steps=20, guidance=2.5)
    requests = [replace(first, id=str(seed), seed=seed) for seed in range(bench.scale.compared_images)]
    tokens = [generate_prior_tokens(eager, [request])[0] for request in requests]
    eager_images = [
        denoising.decode_prior_tokens(eager, [one], [ids])[0] for one, ids in zip(requests, tokens, strict=True)
    ]
    for request, ids, image in zip(requests, tokens, eager_images, strict=True):
        by_diffusers = pipeline(
            prompt=request.prompt,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            latents=denoising.initial_noise(eager, request).to(device, eager.dtype),
            prior_token_ids=denoising.upsample_prior_tokens(ids)[None],
        ).images[0]
        psnrs["glmkit and diffusers"].append(psnr(image, by_diffusers))
        psnrs["kernels and eager"].append(psnr(image, denoising.decode_prior_tokens(compiled, [request], [ids])[0]))
    for case, values in psnrs.items():
        medians = {"median_psnr_db": statistics.median(values), "min_psnr_db": min(values)}
        yield {"case": case} | medians | {"images": len(values)}
    pair = [first, replace(first, id="b", seed=1, prompt="a red 'X'")]
    batched, again = (
        denoising.decode_prior_tokens(eager, batch, [tokens[0]] * len(batch))[0] for batch in (pair, pair[:1])
    )
    twice = generate_prior_tokens(compiled, [first])[0], generate_prior_tokens(compiled, [first])[0]
    pixels = eager_images[0].tobytes()
    yield {"case": "alone and in a batch", "equal": batched.tobytes() == pixels}
    repeated = again.tobytes() == pixels and torch.equal(*twice)
    yield {"case": "a seed twice: pixels, prior tokens", "equal": repeated}


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Decibels between two images; infinite when they are equal."""
    error = np.square(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def batch(bench: Bench) -> Rows:
    """Time the prior tokens of a full batch, then the images of a few; an hour is reckoned from both."""
    side, size = bench.scale.sides[0], bench.scale.batches[-1]
    requests = [bench.request(side, id=str(seed), seed=seed) for seed in range(size)]
    clock = bench.clock
    with clock.stage("tokens"):
        generate_prior_tokens(bench.hybrid, requests)
    few = requests[: bench.scale.throughput_images]
    done: set[str] = set()

    def report(result: Result) -> None:
        assert result.image is not None, result.error
        done.add(result.request.id)

    with clock.stage("images"):
        generator = HybridGenerator(bench.hybrid)
        generator.generate_missing(few, lambda one: one.id not in done, report, bench.scratch / "work", SINGLE_PROCESS)
    with clock.stage("tokens_of_few"):
        generate_prior_tokens(bench.hybrid, few)
    seconds = clock.seconds
    per_image = (seconds["images"] - seconds["tokens_of_few"]) / len(done) + seconds["tokens"] / size
    case = f"{side}x{side}, prior tokens by {size}"
    yield {"case": case, "seconds_per_image": per_image, "images_per_hour": 3600 / per_image}


def diffusers(bench: Bench) -> Rows:
    row = compare(bench.hybrid, bench.request(bench.scale.sides[0]), repeats=3, diffusers_repeats=1)
    yield {"case": row["size"]} | {key: row[key] for key in ("glmkit", "diffusers", "ratio")} | {"all": row}


def trace(bench: Bench) -> Rows:
    """Name the ten kernels that take most time, of 64 tokens, of two denoising steps and of the VAE."""
    side, device = bench.scale.sides[0], bench.hybrid.device
    prior_token_ids = torch.zeros(side // 32, side // 32, dtype=torch.int64, device=device)
    length, vae = bench.scale.prompts[0], bench.hybrid.vae
    latents = torch.zeros(1, len(vae.mean.flatten()), side // vae.scale, side // vae.scale, device=device)
    calls: dict[str, Callable[[], object]] = {
        "64 tokens": lambda: time_decoding(bench.hybrid, 1, length, 64),
        "2 steps": lambda: denoising.denoise(bench.hybrid, [bench.request(side, steps=2)], [prior_token_ids]),
        "VAE": lambda: denoising.decode_latents(bench.hybrid, latents),
    }
    for name, call in calls.items():
        call()
        with torch.profiler.profile() as profile:
            call()
            bench.clock.now()
        column = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        events = sorted(profile.key_averages(), key=lambda event: -getattr(event, column))[:10]
        top = {event.key[:80]: round(getattr(event, column) / 1e3, 3) for event in events}
        yield {"case": name, "ms_by_kernel": top}


SECTIONS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    function.__name__: function for function in (tokens, decoder, images, agreement, batch, diffusers, trace, memory)
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="full", help="full (random weights), nano or a folder")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=460, help="no row begins after so long")
    parser.add_argument("--toy", action="store_true", help="small sizes, to try the script itself")
    parser.add_argument("--compile", choices=("off", "blocks"), default="blocks")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(argv)
    device = pick_device(arguments.device)
    ends = time.perf_counter() + arguments.seconds
    facts = {"compile": arguments.compile} | measured_on(arguments.model, device)
    with tempfile.TemporaryDirectory() as scratch:
        hybrid = open_model(arguments.model, device, dtype_for(device), Path(scratch))
        hybrid.optimize_for_inference(arguments.compile == "blocks")
        bench = Bench(hybrid, TOY if arguments.toy else Scale(), Path(scratch))
        sections = {name: partial(SECTIONS[name], bench) for name in arguments.only}
        return 1 if measure(arguments.out, sections, facts, ends) else 0


def measured_on(model: str, device: torch.device) -> Row:
    """What every file of results says beside its rows."""
    facts: Row = {"date": datetime.date.today().isoformat(), "command": shlex.join(["python", *sys.argv])}
    facts |= {"model": model, "environment": runs.environment(str(device))}
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    return facts


def measure(
    out: Path,
    sections: Mapping[str, Callable[[], Iterable[Row]]],
    facts: Row,
    ends: float,
    limits: Mapping[str, float] | None = None,
) -> bool:
    """Run sections one after another, each into its file of `out`; returns whether one has an error.

    No row begins after `ends`, nor later than its section's limit in seconds after that began.
    """
    began, failed = time.perf_counter(), False
    for name, section in sections.items():
        section_began, rows = time.perf_counter(), []
        section_ends = min(ends, section_began + (limits or {}).get(name, math.inf))
        for row in _measured(section, section_ends):
            rows.append(row)
            write_json(out / f"{name}.json", {"rows": rows, "began_s": section_began - began} | facts)
            print(line(name, row), flush=True)
            failed = failed or "error" in row
        print(f"{name}: {time.perf_counter() - section_began:.1f} s", flush=True)
    return failed


def _measured(section: Callable[[], Iterable[Row]], ends: float) -> Rows:
    """Yield a section's results; a failure is one, since the sections after it are still worth their time."""
    try:
        if time.perf_counter() <= ends:
            for row in section():
                yield row
                if time.perf_counter() > ends:
                    break
            else:
                return
        yield {"case": "no time left"}
    except Exception as error:
        yield {"case": "failed", "error": f"{type(error).__name__}: {str(error)[:500]}"}


def line(section: str, row: Row) -> str:
    cells = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key not in ("case", "all")
    ]
    return f"{section:10} {row['case']}: {'; '.join(cells)}"


if __name__ == "__main__":
    raise SystemExit(main())
