"""glmkit bench: how fast images are drawn here."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.config import parse_size
from glmkit.errors import UserError
from glmkit.generation.options import InferenceOptions, add_inference_options

if TYPE_CHECKING:
    import torch

    from glmkit.models.hybrid import HybridModel
    from glmkit.training import benchmark as speed

HELP = "Measure how long images take, beside diffusers' pipeline on the same weights."
SIDES = ("glmkit", "diffusers")
BASES = ("auto", "float32", "bfloat16", "nf4", "int8", "fp8")
PLAIN = {"stage": ["decoder"], "batch": [1], "recompute": [0], "base": ["auto"]} | dict.fromkeys(
    ("pack", "offload", "compile"), False
)  # what a recipe decides instead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    speed = kinds.add_parser("speed", help="seconds an image, stage by stage")
    speed.add_argument(
        "--model", default="nano", help="nano, a folder, or full: published sizes, random weights (default %(default)s)"
    )
    speed.add_argument("--against", choices=("diffusers",), help="run diffusers' pipeline in turns with ours")
    speed.add_argument("--size", metavar="WIDTHxHEIGHT", nargs="+", help="pixels (default: the model's)")
    speed.add_argument("--steps", metavar="N", type=int, help="decoder steps (default: the model's)")
    speed.add_argument("--repeats", metavar="N", type=int, default=5, help="images a size (default %(default)s)")
    speed.add_argument("--stock-repeats", metavar="N", type=int, help="of diffusers' pipeline (default: as ours)")
    speed.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    speed.add_argument("--out", metavar="FILE.json", type=Path, help="write the result there")
    add_inference_options(speed)
    speed.set_defaults(compile="blocks")  # images are timed warm, and the first call apart
    speed.add_argument("--json", action="store_true", help="print one line of JSON")
    _add_train_arguments(
        kinds.add_parser("train", help="seconds a step of LoRA training on random images; one row a setting")
    )


def _add_train_arguments(train: argparse.ArgumentParser) -> None:
    train.add_argument("--model", default="nano", help="nano, a folder, or full: published sizes, random weights")
    train.add_argument(
        "--recipe", nargs="+", metavar="FILE", help="its stages as they are; then key=value; needs no data of that size"
    )
    train.add_argument("--stage", nargs="+", choices=("decoder", "autoregressive"), default=PLAIN["stage"])
    train.add_argument(
        "--size", metavar="WIDTHxHEIGHT", nargs="+", help="pixels (default: the recipe's data.size, or 256x256)"
    )
    train.add_argument("--batch", metavar="N", nargs="+", type=int, default=PLAIN["batch"])
    train.add_argument(
        "--recompute", metavar="N", nargs="+", type=int, default=PLAIN["recompute"], help="every Nth layer; 0: none"
    )
    train.add_argument("--base", nargs="+", choices=BASES, default=PLAIN["base"], help="how frozen weights are held")
    train.add_argument("--pack", action="store_true", help="autoregressive: sequences in one row, without padding")
    train.add_argument("--offload", action="store_true", help="frozen blocks wait in the CPU's memory")
    train.add_argument("--compile", action="store_true")
    train.add_argument("--cap", metavar="GIB", type=float, help="all the memory that a GPU gives")
    train.add_argument("--steps", metavar="N", type=int, default=5, help="after the first (default %(default)s)")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    train.add_argument("--out", metavar="FILE.jsonl", type=Path, help="add each row to this file at once")
    train.add_argument("--json", action="store_true", help="print each row as JSON")


def train(arguments: argparse.Namespace) -> int:
    """A row for every setting, written as soon as it is measured, or with the reason why not; 1 when none was."""
    if min(*arguments.batch, arguments.steps) < 1 or min(arguments.recompute) < 0:
        raise UserError("--batch and --steps are at least 1, --recompute at least 0")
    if arguments.pack and arguments.stage != ["autoregressive"]:
        raise UserError("--pack is for sequences", fix="--stage autoregressive --pack")
    import tempfile

    from glmkit.files import append_jsonl
    from glmkit.models import checkpoint
    from glmkit.models.devices import pick_device
    from glmkit.training import benchmark as speed

    device, measured = pick_device(arguments.device), False
    jobs = _recipe_jobs(arguments) if arguments.recipe else _jobs(arguments)
    if arguments.model != "full":
        checkpoint.resolve(arguments.model)
    elif device.type != "cuda":
        raise UserError("the published sizes need a CUDA GPU", found=f"device {device}", fix="--model nano")
    with tempfile.TemporaryDirectory() as scratch:
        build = partial(untrained, arguments.model, device, Path(scratch))
        for row in speed.rows(jobs, build, device, arguments.steps):
            row |= {"model": arguments.model, "command": shlex.join(["glmkit", *sys.argv[1:]])}
            measured |= "error" not in row
            if arguments.out:
                append_jsonl(arguments.out, row)
            print(json.dumps(row) if arguments.json else train_line(row), flush=True)
    return 0 if measured else 1


def _jobs(arguments: argparse.Namespace) -> list[speed.Job]:
    from glmkit.training import benchmark as speed

    how = {"pack": arguments.pack, "offload": arguments.offload, "compile": arguments.compile, "cap_gib": arguments.cap}
    # The model first, which is then built once.
    sizes = arguments.size or ["256x256"]
    every = itertools.product(arguments.stage, arguments.base, sizes, arguments.batch, arguments.recompute)
    return [
        speed.Job(stage, *parse_size(size), batch, recompute, base, **how)
        for stage, base, size, batch, recompute in every
    ]


def _recipe_jobs(arguments: argparse.Namespace) -> list[speed.Job]:
    """The stages of a recipe on images of the sizes asked for, of the size that it says, or of the largest there is;
    edits if there are any."""
    from glmkit import config
    from glmkit.training import benchmark as speed
    from glmkit.training import checks, data, plan

    said = [f"--{name}" for name, plain in PLAIN.items() if getattr(arguments, name) != plain]
    if said:
        fix = "--recipe FILE decoder.global_batch_size=2"
        raise UserError("a recipe says this itself", found=" ".join(said), fix=fix)
    file, *overrides = arguments.recipe
    recipe = config.load(file, [*overrides, f"model={'glm-image' if arguments.model == 'full' else arguments.model}"])
    images, _ = data.load(recipe.data)
    checks.content(recipe, images)
    shapes = plan.shapes_of(images)
    largest = max(shapes, key=lambda shape: shape[0] * shape[1])
    named = arguments.size or ([recipe.data.size] if recipe.data.size else [])
    sizes = [parse_size(size) for size in named] or [largest[:2]]
    how = any(is_edit for *_, is_edit in shapes), recipe.data.has_regularization, arguments.cap
    return [speed.Job.of(name, stage, size, *how) for name, stage in recipe.stages.items() for size in sizes]


def train_line(row: dict[str, Any]) -> str:
    """A row for people."""
    how = [name for name in ("edits", "pack", "offload", "compile", "regularization_weight") if row[name]]
    how += [f"accumulation steps {row['accumulation_steps']}"] if row["accumulation_steps"] > 1 else []
    cap = [f"cap {row['cap_gib']:g} GiB"] if row["cap_gib"] else []
    told = f"{row['stage']} {row['size']} batch {row['batch']} recompute {row['gradient_checkpointing']}"
    told = ", ".join([told, f"base {row['base']}", *how, *cap]) + ": "
    if "error" in row:
        return told + row["error"].splitlines()[0]
    return told + (
        f"{row['step']:.3f} s a step (first {row['first_step']:.1f} s), {row['samples_per_second']:.2f} samples/s, "
        f"{row['tokens_per_second']:.0f} tokens/s, {row['share_of_lower_bound']:.2f} of the lower bound "
        f"({row['lower_bound']:.3f} s), "
        f"{row['peak_memory_gib']:.1f} GiB" + _whole(row)
    )


def _whole(row: dict[str, Any]) -> str:
    """How long all steps of a recipe take, besides data and held-out losses."""
    if row["steps"] is None:
        return ""
    from glmkit.training.plan import duration

    return f"; {row['steps']} steps: {duration(row['steps'] * row['step'])}"


def untrained(model: str, device: torch.device, scratch: Path, dtype: torch.dtype) -> HybridModel:
    """The model called so with frozen weights of `dtype`; `full` has the published sizes and random weights."""
    from glmkit.generation.random_model import RandomModel, published_folder
    from glmkit.models import checkpoint
    from glmkit.models.hybrid import HybridModel

    if model != "full":
        return HybridModel(checkpoint.resolve(model), device, dtype, model)
    folder = scratch / "full"
    return RandomModel(folder if folder.exists() else published_folder(folder), device, dtype, "full")


def run(arguments: argparse.Namespace) -> int:
    if arguments.kind == "train":
        return train(arguments)
    if arguments.repeats < 1 or (arguments.stock_repeats or 1) < 1:
        raise UserError("--repeats must be at least 1", found=min(arguments.repeats, arguments.stock_repeats or 1))
    if arguments.memory == "low" and arguments.against:
        raise UserError("diffusers' pipeline needs all parts at once", found="--memory low", fix="--memory high")

    import tempfile
    from datetime import UTC, datetime

    from glmkit import runs
    from glmkit.files import write_json
    from glmkit.generation import benchmark as speed

    with tempfile.TemporaryDirectory() as scratch:
        hybrid = _model(arguments, Path(scratch))
        rows = [
            speed.compare(
                hybrid,
                request,
                arguments.repeats,
                arguments.against is not None,
                arguments.stock_repeats or arguments.repeats,
            )
            for request in _requests(arguments, hybrid)
        ]
    result: dict[str, Any] = {key: rows[0][key] for key in (*SIDES, "ratio", "stages")}
    result |= {
        "model": arguments.model,
        "rows": rows,
        "compiled": hybrid.compiled,
        "dtype": str(hybrid.dtype).removeprefix("torch."),
        "device": _device_name(hybrid),
        "environment": runs.environment(str(hybrid.device)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["glmkit", *sys.argv[1:]]),
    }
    if arguments.out:
        write_json(arguments.out, result)
    print(json.dumps(result) if arguments.json else table(rows, result["device"]))
    return 0


def _model(arguments: argparse.Namespace, scratch: Path) -> HybridModel:
    from glmkit.generation.loading import load_model
    from glmkit.models import checkpoint
    from glmkit.models.devices import dtype_for, pick_device

    device = pick_device(arguments.device)
    options = InferenceOptions.from_arguments(arguments)
    dtype = dtype_for(device)
    if arguments.model != "full":
        return load_model(arguments.model, device, dtype, options=options, components=checkpoint.COMPONENTS)
    if device.type != "cuda":
        raise UserError(
            "the published sizes need a CUDA GPU", found=f"device {device}", fix="--model nano, or a machine with one"
        )
    hybrid = untrained("full", device, scratch, dtype)
    hybrid.low_memory = options.low_memory
    hybrid.optimize_for_inference(options.compiles_on(device.type))
    return hybrid


def _requests(arguments: argparse.Namespace, hybrid: HybridModel) -> list[Any]:
    from glmkit.generation.benchmark import PROMPT
    from glmkit.generation.requests import check_request
    from glmkit.models.checkpoint import defaults
    from glmkit.records import Request

    usual = defaults.load(hybrid.folder)
    sizes = [parse_size(size) for size in arguments.size] if arguments.size else [(usual.height, usual.width)]
    steps = usual.steps if arguments.steps is None else arguments.steps
    requests = [Request("speed", PROMPT, 0, *size, steps=steps, guidance=usual.guidance) for size in sizes]
    for request in requests:
        check_request(request)
    return requests


def _device_name(hybrid: HybridModel) -> str:
    import torch

    from glmkit.runs import cores

    if hybrid.device.type == "cuda":
        return torch.cuda.get_device_name(hybrid.device)
    return f"CPU, {torch.get_num_threads()} threads on {cores()} cores"


def table(rows: list[dict[str, Any]], device: str) -> str:
    """A line a size and stage: seconds of both, ratio, share of our time, and how much of that the lower bound is."""
    lines = [device, f"{'':12}{'':14}{'glmkit':>10}{'diffusers':>10}{'ratio':>8}{'share':>8}{'of bound':>10}"]
    for row in rows:
        stages = {"total": {side: row[side] for side in SIDES}, **row["stages"]}
        for name, stage in stages.items():
            ratio = stage["diffusers"] / stage["glmkit"] if stage.get("diffusers") else None
            cells = (
                stage["glmkit"],
                stage.get("diffusers"),
                ratio,
                stage.get("share"),
                stage.get("share_of_lower_bound"),
            )
            widths = (10, 10, 8, 8, 10)
            shown = "".join(f"{'' if v is None else f'{v:.3f}':>{w}}" for v, w in zip(cells, widths, strict=True))
            lines.append(f"{row['size'] if name == 'total' else '':12}{name:14}{shown}")
        peaks = ", ".join(f"{side} {gib:.1f} GiB" for side, gib in row["peak_memory_gib"].items())
        firsts = ", ".join(f"{side} {seconds:.1f} s" for side, seconds in row["first_call"].items())
        lines.append(f"{'':12}peak memory {peaks}; first call {firsts}")
    return "\n".join(lines)
