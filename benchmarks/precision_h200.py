"""What 8 and 4 bits give on one GPU: right results first, then speed and memory. Random weights of the published sizes.

    python benchmarks/precision_h200.py OUT_FOLDER [--only SECTION ...] [--seconds 540] [--tiny]

`--only 8bit` takes all sections of a precision, `--only 8bit-caps` one. They run in the order of this list, so that a
model is made once. Each result is written to OUT_FOLDER/<section>.json as soon as it is there; no row of a section
begins after its limit (LIMITS). All of them take longer than ten minutes: give `kernels nano 8bit`, `4bit`,
`diffusers` and `training` to runs of their own.

    kernels            packed products against float64 and the plain ones, 8-bit products with their casts, and times
    nano               images of trained weights: dB from the exact ones; a seed twice; alone and in a batch
    PRECISION-rows     the whole model: logits and latents by kernels and by plain modules; rows alone and in a batch
    PRECISION-tokens   latency of prefill and of a decoding step (`speed_h200.tokens`)
    PRECISION-decoder  latency of a denoising step and of the VAE (`speed_h200.decoder`)
    PRECISION-images   latency of whole images: exact steps, --reuse and --guided
    PRECISION-caps     images and edits while the GPU gives no more than a smaller card has
    PRECISION-batch    throughput of many requests (`speed_h200.batch`)
    PRECISION-trace    where the time goes, by kernel (`speed_h200.trace`)
    diffusers          diffusers' pipeline on the same weights: as it is, with compiled blocks, and in its own 8 bits
    training           LoRA of the published sizes with products in 8 bits (`train_h200.products`), and losses of nano
                       on images that are not trained on, of several seeds, on such a base and on one in bfloat16

Packed kernels need Triton; on a CPU they are interpreted where TRITON_INTERPRET=1 says so. diffusers' 8 bits need
torchao, whose wheel this environment does not name: `pip install --no-deps torchao-*.whl` before, or the row says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import speed_h200 as speed
import torch
import train_h200
from precision_checks import kernels, nano, rows
from precision_lab import FULL, TINY, Lab, Scale
from speed_h200 import FEW_STEPS, Bench, Row, Rows
from torch import nn

from glmkit.api.training import finetune
from glmkit.files import read_json
from glmkit.generation import denoising
from glmkit.generation.benchmark import measure_diffusers_latency, measure_latency
from glmkit.generation.diffusers_pipeline import diffusers_pipeline
from glmkit.generation.random_model import open_model
from glmkit.models import checkpoint, float8
from glmkit.models.devices import pick_device
from glmkit.models.hardware import Clock, memory_cap, peak_memory_gib, reset_peak_memory
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request
from glmkit.shipped import ROOT
from glmkit.shortcuts import EXACT
from glmkit.training.benchmark import measure_cases

GIB = 2**30
EXACT_PRECISION = EXACT["precision"]
SHORTCUTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"reuse": 2},
    {"reuse": 3},
    {"guided": 0.5},
    {"reuse": 2, "guided": 0.5},
)


def images(bench: Bench) -> Rows:
    """Whole images, warm: exact steps first."""
    request = bench.request(bench.scale.sides[0])
    first = measure_latency(bench.hybrid, replace(request, steps=FEW_STEPS))["total"]
    for changes in SHORTCUTS:
        reset_peak_memory(bench.hybrid.device)
        one = replace(request, **changes)
        case = ", ".join([f"{one.width}x{one.height}", *(f"{key} {value}" for key, value in changes.items())])
        seconds = measure_latency(bench.hybrid, one)
        yield {"case": case} | seconds | {"peak_gib": peak_memory_gib(bench.hybrid.device), "first_s": first}


def caps(bench: Bench, scale: Scale) -> Rows:
    """One image each, all components in the memory, under a cap that counts what is beside torch's own as well."""
    hybrid = bench.hybrid
    for cap in scale.caps.get(hybrid.precision, ()):
        hybrid.unload("semantic_vq")  # and what former images left
        sources = (bench.condition_image(cap.side),) if cap.edit else ()
        request = bench.request(cap.side, condition_images=sources, vae_tiling=cap.tiled)
        case = f"{'edit ' if cap.edit else ''}{cap.side}x{cap.side}{', in tiles' * cap.tiled} under {cap.gib:g} GiB"
        before = [name for name in vars(hybrid) if name in checkpoint.COMPONENTS]
        try:
            with capped(hybrid.device, cap.gib) as memory:
                seconds = measure_latency(hybrid, request)
        except torch.cuda.OutOfMemoryError as error:
            yield {"case": case, "error": str(error).splitlines()[0][:300]} | memory
        else:
            yield {"case": case} | seconds | memory | {"components_before": before}


@contextmanager
def capped(device: torch.device, gib: float) -> Iterator[Row]:
    """Let a GPU give `gib` GiB in all, and say behind what was taken: by tensors, by torch, and beside torch.

    The last, CUDA's context and kernels, is taken off the cap, since a smaller card would hold it as well.
    """
    memory: Row = {}
    reset_peak_memory(device)
    if device.type != "cuda":
        yield memory
        return
    beside = _beside_torch(device)
    with memory_cap(device, gib - beside / GIB):
        try:
            yield memory
        finally:
            memory["peak_gib"] = peak_memory_gib(device)
            memory["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
            memory["beside_torch_gib"] = max(beside, _beside_torch(device)) / GIB
            memory["whole_gib"] = memory["reserved_gib"] + memory["beside_torch_gib"]


def _beside_torch(device: torch.device) -> float:
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)


# diffusers


def diffusers(lab: Lab) -> Rows:
    """diffusers' pipeline in one process with ours; in 8 bits it quantizes what ours does, for the decoder alone."""
    bench = lab.bench(EXACT_PRECISION)
    request = bench.request(lab.scale.speed.sides[0])
    measure_latency(bench.hybrid, replace(request, steps=FEW_STEPS))
    ours = {EXACT_PRECISION: measure_latency(bench.hybrid, request)["total"]} | _measured_before(lab, request)
    yield {"case": "glmkit", "totals": ours}
    pipe = diffusers_pipeline(bench.hybrid)
    _diffusers_seconds(pipe, bench, replace(request, steps=1))
    whole = measure_diffusers_latency(pipe, bench.hybrid, request)
    yield {"case": "diffusers"} | whole | _ratios(whole["total"], ours)
    if bench.hybrid.device.type != "cuda":
        return
    # Their prior tokens stay as they are; so does the time of these.
    for case, prepare in (("compiled blocks", lambda _: None), ("float8 of torchao, compiled blocks", _quantize)):
        row: Row = {"case": f"diffusers, {case}", "prior_tokens": whole["prior_tokens"]}
        if prepare is _quantize and importlib.util.find_spec("torchao") is None:
            yield row | {"skipped": "torchao is not installed: carry its wheel"}
            return
        try:
            prepare(pipe.transformer)
            pipe.transformer.compile_repeated_blocks(dynamic=False)
            row["compiling_s"] = _diffusers_seconds(pipe, bench, replace(request, steps=1))
            row["denoising_and_vae"] = _diffusers_seconds(pipe, bench, request)
            row["total"] = row["prior_tokens"] + row["denoising_and_vae"]
            yield row | _ratios(row["total"], ours)
        except Exception as error:  # of theirs, which must not end the other
            yield row | {"error": f"{type(error).__name__}: {str(error)[:500]}"}


def _measured_before(lab: Lab, request: Request) -> dict[str, float]:
    """The seconds of an image in fewer bits, where this folder has them."""
    totals = {}
    for path in sorted(lab.out.glob("*-images.json")):
        for row in read_json(path)["rows"]:
            if row["case"].startswith(f"{request.width}x{request.height}") and "total" in row:
                totals[f"{path.stem.partition('-')[0]}, {row['case']}"] = row["total"]
    return totals


def _ratios(total: float, ours: Mapping[str, float]) -> Row:
    return {"ratios": {name: total / seconds for name, seconds in ours.items()}}


def _diffusers_seconds(pipe: Any, bench: Bench, request: Request) -> float:
    """Time diffusers' pipeline behind the prior tokens."""
    clock, side = Clock(bench.hybrid.device), request.height // 32
    prior_token_ids = torch.zeros(side, side, dtype=torch.int64, device=bench.hybrid.device)
    with clock.stage("all"):
        pipe(
            prompt=request.prompt,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            prior_token_ids=denoising.upsample_prior_tokens(prior_token_ids)[None],
        )
    return clock.seconds["all"]


def _quantize(transformer: nn.Module) -> None:
    """torchao's own: a scale per token and per output, for the products of the blocks."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    def is_product(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and "transformer_blocks" in name and "norm" not in name

    quantize_(transformer, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()), filter_fn=is_product)


# Training


def training(lab: Lab) -> Rows:
    """Throughput first, then what it costs in loss."""
    if not _multiplies(lab.device):
        yield {"case": "training", "skipped": "no 8-bit products here"}
        return
    lab.close()
    scale = train_h200.Scale() if lab.model == "full" else train_h200.TOY

    def build(dtype: torch.dtype) -> HybridModel:
        return open_model(lab.model, lab.device, dtype, lab.scratch)

    for row in measure_cases(train_h200.products(scale), build, lab.device, scale.steps):
        settings = [row["stage"], f"batch {row['batch']}", row["base"], *(["compile"] if row["compile"] else [])]
        yield {"case": ", ".join(settings)} | row
    for seed in range(lab.scale.seeds):
        for base in ("auto", "fp8-compute"):
            yield _validation_losses(lab, seed, base)


def _multiplies(device: torch.device) -> bool:
    return float8.multiplies_on(device)


def _validation_losses(lab: Lab, seed: int, base: str) -> Row:
    """Train nano as its recipe of a poster's style does, without samples."""
    changes = {f"data.{name}": str(ROOT / "data" / "posters" / name) for name in ("train", "validation")}
    changes |= {f"{stage}.lora.base": base for stage in ("autoregressive", "decoder")}
    run = finetune(
        ROOT / "recipes" / "nano" / "poster_lora.yaml",
        model="nano" if lab.model == "full" else lab.model,
        output=lab.scratch / f"training-{seed}-{base}",
        overrides={**changes, **lab.scale.training, "samples.prompts": [], "seed": seed},
        device=str(lab.device),
    )
    row: Row = {"case": f"nano, seed {seed}, base {base}"}
    for stage, results in run.results.items():
        row |= {f"{stage}_{name}": results[name]["loss"] for name in ("before", "after")}
    return row


# The order of sections, with the seconds after which none of their rows begins.
OF_PRECISION: Mapping[str, Callable[[Bench, Scale], Iterable[Row]]] = {
    "rows": rows,
    "tokens": lambda bench, _: speed.tokens(bench),
    "decoder": lambda bench, _: speed.decoder(bench),
    "images": lambda bench, _: images(bench),
    "caps": caps,
    "batch": lambda bench, _: speed.batch(bench),
    "trace": lambda bench, _: speed.trace(bench),
}
LIMITS = {
    "kernels": 100,
    "nano": 90,
    "rows": 60,
    "tokens": 60,
    "decoder": 60,
    "images": 90,
    "caps": 120,
    "diffusers": 420,
    "training": 400,
}
WHOLE: Mapping[str, Callable[[Lab], Iterable[Row]]] = {
    "kernels": kernels,
    "nano": nano,
    "diffusers": diffusers,
    "training": training,
}
PRECISIONS_IN_ORDER = ("8bit", "4bit", EXACT_PRECISION)
NAMES = (
    *("kernels", "nano"),
    *(f"{precision}-{name}" for precision in PRECISIONS_IN_ORDER for name in OF_PRECISION),
    *("diffusers", "training"),
)


def chosen(only: Iterable[str]) -> list[str]:
    """Return the sections that are named, or whose precision is, in their order."""
    return [name for name in NAMES if name in only or name.partition("-")[0] in only]


def _run(lab: Lab, name: str) -> Iterable[Row]:
    if name in WHOLE:
        return WHOLE[name](lab)
    precision, _, section = name.partition("-")
    return OF_PRECISION[section](lab.bench(precision), lab.scale)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", help="default: full (random weights), with --tiny nano")
    parser.add_argument("--only", nargs="+", choices=[*NAMES, *PRECISIONS_IN_ORDER], metavar="SECTION", default=NAMES)
    parser.add_argument("--seconds", type=float, default=540, help="no row begins after so long")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script itself")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(argv)
    ends, device = time.perf_counter() + arguments.seconds, pick_device(arguments.device)
    model = arguments.model or ("nano" if arguments.tiny else "full")
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(model, device, TINY if arguments.tiny else FULL, Path(scratch), arguments.out)
        names = chosen(arguments.only)
        limits = {name: LIMITS.get(name.rpartition("-")[2], float("inf")) for name in names}
        sections = {name: partial(_run, lab, name) for name in names}
        return 1 if speed.measure(arguments.out, sections, speed.measured_on(model, device), ends, limits) else 0


if __name__ == "__main__":
    sys.exit(main())
