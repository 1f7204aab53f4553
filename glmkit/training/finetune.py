"""Run a recipe: look at its data, then train its stages one after the other, each from files to files.

The run folder holds the resolved recipe, the manifest, a log and a result per stage, sample images, and adapters.
A stage whose result file exists is done; running the same command again continues with the next one. Of several
processes the first one writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic

import torch

from glmkit import config, files, runs
from glmkit.config import Recipe, Stage
from glmkit.config.recipe import AnyRecipe
from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.distributed.work_queue import exclusive
from glmkit.errors import UserError
from glmkit.files import atomic_path, read_json, remove_leftovers, write_json
from glmkit.models import checkpoint
from glmkit.training import checks, data, distributed, fsdp, model_folder, trackers
from glmkit.training.context import StageContext
from glmkit.training.data import Datasets, ImageDataset, summary
from glmkit.training.features import FeatureCache
from glmkit.training.loop import Loop
from glmkit.training.objectives import StageKind, stage_kinds
from glmkit.training.outputs import StageOutputs
from glmkit.training.stage import PreparedStage, open_model, prepare_stage

DATA = "data.json"  # in the run folder: what the images are
# What may be another when a run is continued, since the weights do not depend on it.
NO_INFLUENCE = {"workers", "gpu_cache_gib", "eval", "wandb", "license"}


@dataclass(frozen=True)
class Workflow(Generic[AnyRecipe]):
    """What fine-tuning does in its own way, and pretraining in another."""

    kind: str
    """What the manifest of a run says."""
    check_model: Callable[[AnyRecipe], None]
    """UserError when a recipe and its model do not go together."""
    load_datasets: Callable[[AnyRecipe], Datasets]
    check_datasets: Callable[[AnyRecipe, Datasets], None]
    """UserError when stages cannot learn from these images what they shall."""
    model_folder: Callable[[AnyRecipe], Path]
    """Where components are read from: the model itself, or the folder that full training writes into."""
    prepare: Callable[[StageContext, Stage, AnyRecipe, Path, Datasets], PreparedStage]
    """Everything before step 1 of a stage."""


def finetune(recipe: Recipe, device: torch.device, group: ProcessGroup = SINGLE_PROCESS) -> dict[str, Any]:
    """Fine-tune every stage of `recipe` that is not done yet; returns the stages' results by name."""
    return run_recipe(recipe, device, FINETUNING, group)


def run_recipe(
    recipe: AnyRecipe, device: torch.device, workflow: Workflow[AnyRecipe], group: ProcessGroup = SINGLE_PROCESS
) -> dict[str, Any]:
    """Run every stage of `recipe` that is not done yet; returns the stages' results by name."""
    # 1. Look for what may be wrong before anything is written.
    checks.settings(recipe, device)
    distributed.check(recipe, group)
    if group.sharded:
        fsdp.check(recipe)

    # 2. Make the run folder, or take it up again; no other training works in it until this one ends.
    with _open_run(recipe, device, workflow) if group.is_main else nullcontext() as datasets:
        group.barrier()

        # 3. Find the model; full training writes into a copy of it.
        with group.main_process_first():
            folder = workflow.model_folder(recipe)

        # 4. Train the stages in turn.
        return train_stages(recipe, folder, datasets, device, workflow, group)


def train_stages(
    recipe: AnyRecipe,
    folder: Path,
    datasets: Datasets | None,
    device: torch.device,
    workflow: Workflow[AnyRecipe],
    group: ProcessGroup,
) -> dict[str, Any]:
    """Train every stage that has no result yet, on the model in `folder`; `datasets` None: they are read if needed."""
    results: dict[str, Any] = {}
    for name, stage in recipe.stages.items():
        context = StageContext(Path(recipe.output), name, recipe.seed, device, group)
        if context.result.exists():
            print(f"{name}: already done ({context.result})", file=sys.stderr)
        else:
            datasets = datasets or _load_again(recipe, workflow)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            prepared = workflow.prepare(context, stage, recipe, folder, datasets)
            group.barrier()  # some read the data sets only now
            result = train_stage(context, stage, recipe, prepared, datasets[0])
            if group.is_main:
                write_json(context.result, result)
        group.barrier()
        if group.is_main:
            context.state.unlink(missing_ok=True)
        results[name] = read_json(context.result)
    return results


def train_stage(
    context: StageContext, stage: Stage, recipe: Recipe, prepared: PreparedStage, images: ImageDataset
) -> dict[str, Any]:
    """Train one prepared stage to its end; returns what `Loop.run` returns."""
    # 1. Which images make which step.
    kinds = data.buckets(images)
    if isinstance(stage, config.AutoregressiveStage) and stage.pack:
        kinds = data.one_bucket(kinds)
    batches = data.Batches(
        kinds,
        stage.global_batch_size,
        recipe.seed,
        images.repeats,
        stage.equal_pixels,
        stage.accumulation_steps,
        images.same_image,
    )

    # 2. The steps.
    listeners = trackers.trackers(context.folder, context.name, recipe.wandb) if context.group.is_main else []
    loop = Loop(prepared.objective, batches, stage, context, listeners)
    return loop.run(prepared.export, prepared.sample, recipe.samples.every)


def prepare(
    context: StageContext, stage: Stage, recipe: Recipe, folder: Path, datasets: Datasets, kind: StageKind
) -> PreparedStage:
    """Do everything before step 1 of a stage (see `prepare_stage`), and choose what it writes and samples."""
    cache_folder = files.cache_folder() / "training"
    cache = FeatureCache(context.device, cache_folder, recipe.data.gpu_cache_gib * 2**30, context.group)
    hybrid = open_model(context, stage, recipe, folder)
    model = prepare_stage(context, kind, stage, hybrid, datasets, cache)
    outputs = StageOutputs(context, stage, recipe, model, kind.transformer or context.name)
    return PreparedStage(model.objective, outputs.export, outputs.sampler())


def _prepare(context: StageContext, stage: Stage, recipe: Recipe, folder: Path, datasets: Datasets) -> PreparedStage:
    return prepare(context, stage, recipe, folder, datasets, stage_kinds()[context.name])


@contextmanager
def _open_run(recipe: AnyRecipe, device: torch.device, workflow: Workflow[AnyRecipe]) -> Iterator[Datasets | None]:
    """Make the run folder or take it up again; yields the data sets of a new run, which were checked before.

    UserError when another process trains in it.
    """
    output = Path(recipe.output)
    datasets = None if (output / DATA).exists() else _checked(recipe, workflow)
    runs.check_folder(output)
    with exclusive(output, wait=False):
        remove_leftovers(output)
        runs.open_run(output, workflow.kind, _flat(recipe.model_dump(mode="json")), str(device))
        with atomic_path(output / "recipe.yaml") as temporary:
            temporary.write_text(config.to_yaml(recipe), encoding="utf-8")
        if datasets is not None:
            print("\n".join(summary.lines(datasets, recipe.largest_batch)), file=sys.stderr)
            write_json(output / DATA, {name: asdict(report) for name, report in summary.summaries(datasets).items()})
        yield datasets


def _checked(recipe: AnyRecipe, workflow: Workflow[AnyRecipe]) -> Datasets:
    """Load the data sets of a new run, after a look at everything else that may be wrong with it."""
    workflow.check_model(recipe)
    datasets = workflow.load_datasets(recipe)
    workflow.check_datasets(recipe, datasets)
    return datasets


def _load_again(recipe: AnyRecipe, workflow: Workflow[AnyRecipe]) -> Datasets:
    """Load the data sets of a run that goes on.

    UserError when they are not those that it began with: its steps so far, their order and its losses are of those.
    """
    datasets, before = workflow.load_datasets(recipe), read_json(Path(recipe.output) / DATA)
    for name, now in summary.summaries(datasets).items():
        if now.content != before[name]["content"]:
            raise UserError(
                f"the images of data.{name} or their captions have changed since this run began",
                found=f"{now.images} images, {before[name]['images']} when it began",
                fix="put them back as they were, or output=FOLDER for a new run",
            )
    return datasets


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as `a.b.c: value`, so that a difference between two runs can be named; without NO_INFLUENCE."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in NO_INFLUENCE:
            continue
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _model_folder(recipe: Recipe) -> Path:
    base, output = checkpoint.resolve(recipe.model), Path(recipe.output)
    if recipe.is_lora_only:
        return base
    return model_folder.writable_copy(base, output / "model", output)


FINETUNING: Workflow[Recipe] = Workflow(
    "finetune",
    checks.model,
    lambda recipe: data.load(recipe.data, recipe.largest_batch),
    checks.datasets,
    _model_folder,
    _prepare,
)


def describe(results: Mapping[str, Any]) -> str:
    """Tell of each stage on one line: steps, validation loss before and after, time."""
    return "\n".join(
        f"{name}: {result['steps']} steps in {result['seconds']:.0f} s, "
        f"validation loss {result['before']['loss']:.4f} -> {result['after']['loss']:.4f}"
        for name, result in results.items()
    )
