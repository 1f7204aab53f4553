"""glmkit bench train: how fast adapters or whole models are trained here, by one process or those of a launcher."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.commands.bench.speed import MODELS
from glmkit.errors import UserError
from glmkit.sizes import parse_size

if TYPE_CHECKING:
    import torch

    from glmkit.distributed.process_group import ProcessGroup
    from glmkit.models.hybrid import HybridModel
    from glmkit.training.benchmark import TrainingCase

HELP = "throughput: samples per second of training"
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
    "full_finetuning": False,
}


def add_arguments(train: argparse.ArgumentParser) -> None:
    """Add the arguments of `glmkit bench train`."""
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
    train.add_argument(
        "--full-finetuning", action="store_true", help="all weights learn, in float32, in place of adapters"
    )
    train.add_argument("--pack", action="store_true", help="autoregressive: sequences packed without padding")
    train.add_argument("--offload", action="store_true", help="frozen blocks wait in the CPU's memory")
    train.add_argument("--compile", action="store_true", help="compile the blocks")
    train.add_argument("--cap", metavar="GIB", type=float, help="all the memory that a GPU gives")
    train.add_argument("--steps", metavar="N", type=int, default=5, help="after the first (default %(default)s)")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    train.add_argument("--out", metavar="FILE.jsonl", type=Path, help="add the result of each setting to this file")
    train.add_argument("--json", action="store_true", help="print each result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure every setting, with its result, or the reason why there is none, at once; UserError without a result."""
    if min(*arguments.batch, arguments.steps) < 1 or min(arguments.gradient_checkpointing) < 0:
        raise UserError("--batch and --steps are at least 1, --gradient-checkpointing at least 0")
    if arguments.pack and arguments.stage != ["autoregressive"]:
        raise UserError("--pack is for sequences", fix="--stage autoregressive --pack")
    if arguments.full_finetuning and (arguments.offload or arguments.base != RECIPE_DECIDES["base"]):
        raise UserError("--base and --offload are for frozen weights", fix="leave them out, or --full-finetuning")
    from glmkit.distributed.together import together
    from glmkit.generation.loading import device_of_rank
    from glmkit.training.distributed import check_launcher

    device = device_of_rank(arguments.device)
    with together(device) as group:
        check_launcher()
        return _measure_training(arguments, device, group)


def _measure_training(arguments: argparse.Namespace, device: torch.device, group: ProcessGroup) -> int:
    import tempfile

    from glmkit.files import append_jsonl
    from glmkit.generation.random_model import PUBLISHED_SIZES, check_published_sizes, open_model
    from glmkit.models import checkpoint
    from glmkit.training.benchmark import measure_cases

    errors: list[str | None] = []
    jobs = _recipe_jobs(arguments) if arguments.recipe else _jobs(arguments)
    if arguments.model != PUBLISHED_SIZES:
        checkpoint.resolve(arguments.model)
    else:
        check_published_sizes(device)
    with tempfile.TemporaryDirectory() as scratch:

        def build(dtype: torch.dtype) -> HybridModel:
            return open_model(arguments.model, device, dtype, Path(scratch))

        for row in measure_cases(jobs, build, device, arguments.steps, group=group):
            row |= {"model": arguments.model, "command": shlex.join(["glmkit", *sys.argv[1:]])}
            errors.append(row.get("error"))
            if arguments.out and group.is_main:
                append_jsonl(arguments.out, row)
            print(json.dumps(row) if arguments.json else train_line(row), flush=True)
    if all(errors):
        raise UserError("nothing could be measured", found=errors[0], fix="change what the rows say")
    return 0


def _jobs(arguments: argparse.Namespace) -> list[TrainingCase]:
    from glmkit.training.benchmark import TrainingCase

    names = ("pack", "offload", "compile", "full_finetuning")
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in names}
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
    weights = "all weights" if row["full_finetuning"] else f"base {row['base']}"
    if row["processes"] > 1:
        settings.append(f"{row['processes']} processes{', weights in shards' if row['sharded'] else ''}")
    job = ", ".join([job, weights, *settings]) + ": "
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
