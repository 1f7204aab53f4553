"""glmkit bench speed: the latency of images, beside diffusers' pipeline on the same weights."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.errors import UserError
from glmkit.generation.options import (
    PARALLEL,
    InferenceOptions,
    add_inference_options,
    add_parallel_option,
    add_shortcut_options,
)
from glmkit.shortcuts import EXACT

if TYPE_CHECKING:
    from glmkit.models.hybrid import HybridModel
    from glmkit.records import Request

HELP = "latency: seconds per image, stage by stage"
MODELS = "nano, a folder, or full: published sizes, random weights (default %(default)s)"
SIDES = ("glmkit", "diffusers")


def add_arguments(speed: argparse.ArgumentParser) -> None:
    """Add the arguments of `glmkit bench speed`."""
    speed.add_argument("--model", default="nano", help=MODELS)
    speed.add_argument("--against", choices=("diffusers",), help="run diffusers' pipeline in turns with glmkit's")
    speed.add_argument("--size", metavar="WIDTHxHEIGHT", nargs="+", help="pixels (default: the model's)")
    speed.add_argument("--steps", metavar="N", type=int, help="denoising steps (default: the model's)")
    add_shortcut_options(speed)
    speed.add_argument("--repeats", metavar="N", type=int, default=5, help="images per size (default %(default)s)")
    speed.add_argument("--diffusers-repeats", metavar="N", type=int, help="of diffusers' pipeline (default: --repeats)")
    speed.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    speed.add_argument("--out", metavar="FILE.json", type=Path, help="write the result there")
    add_inference_options(speed)
    add_parallel_option(speed)
    speed.set_defaults(compile="blocks")  # images are timed warm, and the first call apart
    speed.add_argument("--json", action="store_true", help="print one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure images of each size, and print a table or JSON."""
    diffusers_repeats = arguments.repeats if arguments.diffusers_repeats is None else arguments.diffusers_repeats
    if min(arguments.repeats, diffusers_repeats) < 1:
        raise UserError("--repeats must be at least 1", found=min(arguments.repeats, diffusers_repeats))
    if arguments.memory == "low" and arguments.against:
        raise UserError("diffusers' pipeline needs all components at once", found="--memory low", fix="--memory high")
    if arguments.precision != EXACT["precision"] and arguments.against:
        what = "diffusers' pipeline is measured on the same weights, which it needs as they are"
        raise UserError(what, found=f"--precision {arguments.precision}", fix="leave out one of the two")

    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        if arguments.parallel == PARALLEL[0]:
            return _measure_speed(arguments, Path(scratch), diffusers_repeats)
        from glmkit.generation import parallel_denoising

        return parallel_denoising.run(
            arguments,
            lambda: _measure_speed(arguments, Path(scratch), diffusers_repeats),
            lambda: _speed_model(arguments, Path(scratch), ["decoder"]),
        )


def _measure_speed(arguments: argparse.Namespace, scratch: Path, diffusers_repeats: int) -> int:
    from datetime import UTC, datetime

    from glmkit import runs
    from glmkit.files import write_json
    from glmkit.generation.benchmark import compare
    from glmkit.models import checkpoint
    from glmkit.models.hardware import device_name

    hybrid = _speed_model(arguments, scratch, checkpoint.COMPONENTS)
    hybrid.denoising_partners = arguments.partners
    repeats = (arguments.repeats, diffusers_repeats if arguments.against else 0)
    rows = [compare(hybrid, request, *repeats) for request in _requests(arguments, hybrid)]
    result: dict[str, Any] = {key: rows[0][key] for key in (*SIDES, "ratio", "stages")}
    result |= {
        "model": arguments.model,
        "parallel": arguments.parallel,
        "rows": rows,
        "compiled": hybrid.compiled,
        "dtype": str(hybrid.dtype).removeprefix("torch."),
        "device": device_name(hybrid.device),
        "environment": runs.environment(str(hybrid.device)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["glmkit", *sys.argv[1:]]),
    }
    if arguments.out:
        write_json(arguments.out, result)
    print(json.dumps(result) if arguments.json else speed_table(rows, result["device"]))
    return 0


def _speed_model(arguments: argparse.Namespace, scratch: Path, components: Iterable[str]) -> HybridModel:
    from glmkit.generation.loading import device_of_rank, load_model
    from glmkit.generation.random_model import PUBLISHED_SIZES, check_published_sizes, open_model
    from glmkit.models.devices import dtype_for

    device, options = device_of_rank(arguments.device), InferenceOptions.from_arguments(arguments)
    if arguments.model != PUBLISHED_SIZES:
        model = (arguments.model, device, dtype_for(device), (), options)
        return load_model(*model, components, arguments.precision)
    check_published_sizes(device)
    hybrid = open_model(PUBLISHED_SIZES, device, dtype_for(device), scratch, arguments.precision)
    hybrid.low_memory = options.low_memory
    hybrid.optimize_for_inference(options.compiles_on(device))
    return hybrid


def _requests(arguments: argparse.Namespace, hybrid: HybridModel) -> list[Request]:
    from glmkit.generation.benchmark import PROMPT
    from glmkit.generation.requests import check_request, new_request

    requests = [
        new_request(
            hybrid.folder,
            "speed",
            PROMPT,
            size=size,
            steps=arguments.steps,
            reuse=arguments.reuse,
            guided=arguments.guided,
            vae_tiling=arguments.vae_tiling,
        )
        for size in arguments.size or [None]
    ]
    for request in requests:
        check_request(request)
    return requests


def speed_table(rows: Sequence[Mapping[str, Any]], device: str) -> str:
    """Write a line per size and stage: seconds of both, their ratio, share of glmkit's time, share of lower bound."""
    widths = (10, 10, 8, 8, 10)
    heads = (*SIDES, "ratio", "share", "of bound")
    lines = [device, f"{'':26}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))]
    for row in rows:
        stages = {"total": {side: row[side] for side in SIDES}, **row["stages"]}
        for name, stage in stages.items():
            ours, theirs = stage["glmkit"], stage.get("diffusers")
            ratio = theirs / ours if theirs else None
            values = (ours, theirs, ratio, stage.get("share"), stage.get("share_of_lower_bound"))
            cells = [
                f"{'' if value is None else f'{value:.3f}':>{width}}"
                for value, width in zip(values, widths, strict=True)
            ]
            lines.append(f"{row['size'] if name == 'total' else '':12}{name:14}{''.join(cells)}")
        peaks = ", ".join(f"{side} {gib:.1f} GiB" for side, gib in row["peak_memory_gib"].items())
        first_calls = ", ".join(f"{side} {seconds:.1f} s" for side, seconds in row["first_call"].items())
        lines.append(f"{'':12}peak memory {peaks}; first call {first_calls}")
    return "\n".join(lines)
