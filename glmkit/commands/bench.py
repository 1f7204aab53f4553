"""glmkit bench: how fast images are generated, and how fast adapters are trained, here."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.config import parse_size
from glmkit.errors import UserError
from glmkit.files import check_writable
from glmkit.generation.options import (
    InferenceOptions,
    add_inference_options,
    add_parallel_option,
    add_shortcut_options,
)
from glmkit.shortcuts import EXACT

if TYPE_CHECKING:
    import torch

    from glmkit.models.hybrid import HybridModel
    from glmkit.records import Request
    from glmkit.training.benchmark import TrainingCase

HELP = "Measure the latency of images, beside diffusers' pipeline on the same weights, or the throughput of training."
MODELS = "nano, a folder, or full: published sizes, random weights (default %(default)s)"
SIDES = ("glmkit", "diffusers")
BASES = ("auto", "float32", "bfloat16", "nf4", "int8", "fp8", "fp8-compute")
# The defaults of what a recipe decides instead.
RECIPE_DECIDES: Mapping[str, Any] = {
    "stage": ["decoder"],
    "batch": [1],
    "gradient_checkpointing": [0],
    "base": ["auto"],
    "pack": False,
    "offload": False,
    "compile": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_speed_arguments(kinds.add_parser("speed", help="latency: seconds per image, stage by stage"))
    _add_price_arguments(kinds.add_parser("price", help="what quicker settings cost in words, and what they save"))
    _add_train_arguments(kinds.add_parser("train", help="throughput: samples per second of LoRA training"))


def _add_speed_arguments(speed: argparse.ArgumentParser) -> None:
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


def _add_price_arguments(price: argparse.ArgumentParser) -> None:
    price.add_argument(
        "--settings", nargs="+", metavar="KEY=VALUE,...", help="reuse, guided, precision, steps, guidance"
    )
    price.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default %(default)s)")
    price.add_argument("--suite", default="text-render", help="whose metrics are compared (default %(default)s)")
    price.add_argument("--data", metavar="DIR", type=Path, help="prompt files of a public benchmark")
    price.add_argument("--split", metavar="NAME", nargs="+", help="only these splits of the suite")
    price.add_argument("--limit", metavar="N", type=int, help="only the first N prompts of each split")
    price.add_argument("--count", metavar="N", type=int, default=1, help="images per prompt (default %(default)s)")
    price.add_argument("--size", metavar="WIDTHxHEIGHT", help="pixels (default: the prompt's, else the model's)")
    price.add_argument("--ocr", metavar="ENGINE[:LOCATION]", help="paddleocr (the default), ...")
    price.add_argument("--repeats", metavar="N", type=int, default=3, help="timed images each (default %(default)s)")
    price.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    price.add_argument("--run", metavar="DIR", type=Path, required=True, dest="folder", help="where the images stay")
    price.add_argument("--out", metavar="FILE.json", type=Path, help="write the result there")
    price.add_argument("--figure", metavar="FILE.svg", type=Path, help="draw seconds against words there; or .png")
    price.add_argument("--json", action="store_true", help="print one line of JSON")


def _add_train_arguments(train: argparse.ArgumentParser) -> None:
    default = RECIPE_DECIDES
    train.add_argument("--model", default="nano", help=MODELS)
    train.add_argument(
        "--recipe", nargs="+", metavar="FILE", help="its stages as they are; then key=value; needs no data of that size"
    )
    train.add_argument("--stage", nargs="+", choices=("decoder", "autoregressive"), default=default["stage"])
    train.add_argument(
        "--size", metavar="WIDTHxHEIGHT", nargs="+", help="pixels (default: the recipe's data.size, or 256x256)"
    )
    train.add_argument("--batch", metavar="N", nargs="+", type=int, default=default["batch"], help="images per step")
    train.add_argument(
        "--gradient-checkpointing",
        metavar="N",
        nargs="+",
        type=int,
        default=default["gradient_checkpointing"],
        help="every Nth layer keeps its inputs only; 0: none",
    )
    train.add_argument("--base", nargs="+", choices=BASES, default=default["base"], help="how frozen weights are held")
    train.add_argument("--pack", action="store_true", help="autoregressive: sequences packed without padding")
    train.add_argument("--offload", action="store_true", help="frozen blocks wait in the CPU's memory")
    train.add_argument("--compile", action="store_true", help="compile the blocks")
    train.add_argument("--cap", metavar="GIB", type=float, help="all the memory that a GPU gives")
    train.add_argument("--steps", metavar="N", type=int, default=5, help="after the first (default %(default)s)")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    train.add_argument("--out", metavar="FILE.jsonl", type=Path, help="add the result of each setting to this file")
    train.add_argument("--json", action="store_true", help="print each result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark of the kind that was named."""
    if arguments.out:
        check_writable(arguments.out)
    return {"train": run_train, "speed": run_speed, "price": run_price}[arguments.kind](arguments)


def run_speed(arguments: argparse.Namespace) -> int:
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
        if arguments.parallel != "guidance":
            return _measure_speed(arguments, Path(scratch), diffusers_repeats)
        from glmkit.generation import parallel_guidance

        return parallel_guidance.run(
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
    hybrid.guidance_partner = arguments.partner
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
    from glmkit.generation.random_model import PUBLISHED_SIZES, open_model
    from glmkit.models.devices import dtype_for

    device, options = device_of_rank(arguments.device), InferenceOptions.from_arguments(arguments)
    if arguments.model != PUBLISHED_SIZES:
        model = (arguments.model, device, dtype_for(device), (), options)
        return load_model(*model, components, arguments.precision)
    _check_published_sizes(device)
    hybrid = open_model(PUBLISHED_SIZES, device, dtype_for(device), scratch, arguments.precision)
    hybrid.low_memory = options.low_memory
    hybrid.optimize_for_inference(options.compiles_on(device))
    return hybrid


def _check_published_sizes(device: torch.device) -> None:
    if device.type != "cuda":
        raise UserError(
            "the published sizes need a CUDA GPU", found=f"device {device}", fix="--model nano, or a machine with one"
        )


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


def run_price(arguments: argparse.Namespace) -> int:
    """Compare quicker settings with exact generation, and print a table or JSON."""
    if arguments.repeats < 1:
        raise UserError("--repeats must be at least 1", found=arguments.repeats)

    from glmkit.api.evaluation import price
    from glmkit.extras import require
    from glmkit.files import write_json
    from glmkit.reporting.price import check_figure, price_table, write_price_figure

    if arguments.figure:
        require("matplotlib", "a figure")
        check_figure(arguments.figure)
    names = ("model", "suite", "data", "split", "limit", "size", "ocr", "repeats", "device")
    options = {name: getattr(arguments, name) for name in names} | {"num_images_per_prompt": arguments.count}
    result = price(arguments.folder, arguments.settings, **options)
    result |= {"command": shlex.join(["glmkit", *sys.argv[1:]])}
    if arguments.out:
        write_json(arguments.out, result)
    if arguments.figure:
        write_price_figure(result, arguments.figure)
    print(json.dumps(result) if arguments.json else price_table(result))
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    """Measure every setting, with its result, or the reason why there is none, at once; UserError without a result."""
    if min(*arguments.batch, arguments.steps) < 1 or min(arguments.gradient_checkpointing) < 0:
        raise UserError("--batch and --steps are at least 1, --gradient-checkpointing at least 0")
    if arguments.pack and arguments.stage != ["autoregressive"]:
        raise UserError("--pack is for sequences", fix="--stage autoregressive --pack")
    import tempfile

    from glmkit.files import append_jsonl
    from glmkit.generation.random_model import PUBLISHED_SIZES, open_model
    from glmkit.models import checkpoint
    from glmkit.models.devices import pick_device
    from glmkit.training.benchmark import measure_cases

    device = pick_device(arguments.device)
    errors: list[str | None] = []
    jobs = _recipe_jobs(arguments) if arguments.recipe else _jobs(arguments)
    if arguments.model != PUBLISHED_SIZES:
        checkpoint.resolve(arguments.model)
    else:
        _check_published_sizes(device)
    with tempfile.TemporaryDirectory() as scratch:

        def build(dtype: torch.dtype) -> HybridModel:
            return open_model(arguments.model, device, dtype, Path(scratch))

        for row in measure_cases(jobs, build, device, arguments.steps):
            row |= {"model": arguments.model, "command": shlex.join(["glmkit", *sys.argv[1:]])}
            errors.append(row.get("error"))
            if arguments.out:
                append_jsonl(arguments.out, row)
            print(json.dumps(row) if arguments.json else train_line(row), flush=True)
    if all(errors):
        raise UserError("nothing could be measured", found=errors[0], fix="change what the rows say")
    return 0


def _jobs(arguments: argparse.Namespace) -> list[TrainingCase]:
    from glmkit.training.benchmark import TrainingCase

    settings: dict[str, Any] = {name: getattr(arguments, name) for name in ("pack", "offload", "compile")}
    # The settings of a model come first, so that jobs that share it follow each other and it is built once.
    every = itertools.product(
        arguments.stage,
        arguments.base,
        arguments.size or ["256x256"],
        arguments.batch,
        arguments.gradient_checkpointing,
    )
    return [
        TrainingCase(stage, *parse_size(size), batch, checkpointing, base, cap_gib=arguments.cap, **settings)
        for stage, base, size, batch, checkpointing in every
    ]


def _recipe_jobs(arguments: argparse.Namespace) -> list[TrainingCase]:
    """Return the stages of a recipe on images of the sizes of --size, of the recipe's size, or of the largest image.

    They are edits if there are any.
    """
    from glmkit import config
    from glmkit.generation.random_model import PUBLISHED_SIZES
    from glmkit.training import checks, data, plan
    from glmkit.training.benchmark import TrainingCase

    contradicting = [name for name, default in RECIPE_DECIDES.items() if getattr(arguments, name) != default]
    if contradicting:
        options = " ".join(f"--{name.replace('_', '-')}" for name in contradicting)
        raise UserError("a recipe says this itself", found=options, fix="--recipe FILE decoder.global_batch_size=2")
    file, *overrides = arguments.recipe
    model = "glm-image" if arguments.model == PUBLISHED_SIZES else arguments.model
    recipe = config.load(file, [*overrides, f"model={model}"])
    if recipe.data.prompts is not None:
        raise UserError(
            "only stages that learn from images are measured", found="data.prompts", fix=f"glmkit validate {file}"
        )
    images, _ = data.load(recipe.data, recipe.largest_batch)
    checks.content(recipe, images)
    shapes = plan.shapes_of(images)
    largest = max(shapes, key=lambda shape: shape[0] * shape[1])
    named = arguments.size or ([recipe.data.size] if recipe.data.size else [])
    sizes = [parse_size(size) for size in named] or [largest[:2]]
    settings = any(conditions for *_, conditions in shapes), recipe.data.has_regularization, arguments.cap
    return [
        TrainingCase.from_recipe(name, stage, size, *settings)
        for name, stage in recipe.stages.items()
        for size in sizes
    ]


def train_line(row: Mapping[str, Any]) -> str:
    """Write the result of a setting for people."""
    settings = [name for name in ("edits", "pack", "offload", "compile", "regularization_weight") if row[name]]
    if row["accumulation_steps"] > 1:
        settings.append(f"accumulation steps {row['accumulation_steps']}")
    if row["cap_gib"]:
        settings.append(f"cap {row['cap_gib']:g} GiB")
    checkpointing = f"gradient checkpointing {row['gradient_checkpointing']}"
    job = f"{row['stage']} {row['size']} batch {row['batch']} {checkpointing}"
    job = ", ".join([job, f"base {row['base']}", *settings]) + ": "
    if "error" in row:
        return job + str(row["error"]).splitlines()[0]
    result = (
        f"{row['step']:.3f} s per step (first {row['first_step']:.1f} s), {row['samples_per_second']:.2f} samples/s, "
        f"{row['tokens_per_second']:.0f} tokens/s, {row['share_of_lower_bound']:.2f} of the lower bound "
        f"({row['lower_bound']:.3f} s), {row['peak_memory_gib']:.1f} GiB"
    )
    return job + result + _duration_of_all_steps(row)


def _duration_of_all_steps(row: Mapping[str, Any]) -> str:
    """Write how long all steps of a recipe take, besides data and validation losses."""
    if row["steps"] is None:
        return ""
    from glmkit.training.units import duration

    seconds: float = row["steps"] * row["step"]
    return f"; {row['steps']} steps: {duration(seconds)}"
