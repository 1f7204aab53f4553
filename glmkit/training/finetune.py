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
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypedDict

import torch

from glmkit import config, files, runs
from glmkit.config import Recipe, Stage
from glmkit.config.recipe import AnyRecipe
from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.distributed.shared_folder import check_shared
from glmkit.distributed.work_queue import exclusive
from glmkit.errors import UserError, is_out_of_memory
from glmkit.files import atomic_path, read_json, remove_leftovers, write_json
from glmkit.hashing import fingerprint
from glmkit.models import checkpoint
from glmkit.models.checkpoint import identity
from glmkit.models.checkpoint.adapters import Adapter
from glmkit.shapes import check_shape
from glmkit.training import checks, data, distributed, fsdp, model_folder, out_of_memory, rl, trackers
from glmkit.training.context import StageContext
from glmkit.training.data import Datasets, ImageDataset, summary
from glmkit.training.features import FeatureCache
from glmkit.training.loop import Loop, StepImages
from glmkit.training.objectives import StageKind, stage_kinds
from glmkit.training.outputs import StageOutputs
from glmkit.training.stage import PreparedStage, open_model, prepare_stage

DATA = "data.json"  # in the run folder: what the images are
# What may be another when a run is continued, since the weights do not depend on it.
NO_INFLUENCE = {
    *("workers", "gpu_cache_gib", "eval", "wandb", "license", "samples", "validation_every", "save_every"),
    *("keep_checkpoints", "gradient_checkpointing", "offload", "output", "limits"),
}
# What may be another if the user says so: how far and how fast a stage goes on from where it is.
CHANGEABLE = ("steps", "learning_rate", "warmup_steps", "decay_fraction", "max_grad_norm")


class Begun(TypedDict):
    """Hold what the run folder says of one of its data sets."""

    images: int
    content: str


@dataclass(frozen=True)
class Workflow(Generic[AnyRecipe]):
    """Hold what fine-tuning does in its own way, and pretraining in another."""

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
    kinds: Callable[[], Mapping[str, StageKind]]
    """What the stages are made of, to estimate their memory."""


def finetune(
    recipe: Recipe, device: torch.device, group: ProcessGroup = SINGLE_PROCESS, allow_changes: bool = False
) -> dict[str, Any]:
    """Fine-tune every stage of `recipe` that is not done yet; returns the stages' results by name.

    `allow_changes`: a run that goes on may do so with other values of CHANGEABLE than it began with.
    """
    return run_recipe(recipe, device, FINETUNING, group, allow_changes)


def run_recipe(
    recipe: AnyRecipe,
    device: torch.device,
    workflow: Workflow[AnyRecipe],
    group: ProcessGroup = SINGLE_PROCESS,
    allow_changes: bool = False,
) -> dict[str, Any]:
    """Run every stage of `recipe` that is not done yet; returns the stages' results by name."""
    # 1. Look for what may be wrong before anything is written.
    files.make_folder(files.cache_folder())
    checks.settings(recipe, device)
    distributed.check_launcher()
    distributed.check(recipe.stages, group)
    if group.sharded:
        fsdp.check(recipe.stages)
    if group.is_main:
        runs.check_folder(Path(recipe.output))
    check_shared(Path(recipe.output), group)

    # 2. Make the run folder, or take it up again; no other training works in it until this one ends.
    with _open_run(recipe, device, workflow, allow_changes) if group.is_main else nullcontext() as datasets:
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
        done = runs.read_result(context.result) if context.result.exists() else None
        if done and done["steps"] >= stage.steps:
            print(f"{name}: already done ({context.result})", file=sys.stderr)
        else:
            datasets = datasets or _load_again(recipe, workflow)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            try:
                prepared = workflow.prepare(context, stage, recipe, folder, datasets)
                group.barrier()  # some read the data sets only now
                result = train_stage(context, stage, recipe, prepared, datasets[0], done)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise out_of_memory.explain(error, name, recipe, datasets[0], device, workflow.kinds()) from error
            if group.is_main:
                write_json(context.result, result)
        group.barrier()
        if group.is_main:
            context.state.unlink(missing_ok=True)
        results[name] = runs.read_result(context.result)
    return results


def train_stage(
    context: StageContext,
    stage: Stage,
    recipe: Recipe,
    prepared: PreparedStage,
    images: ImageDataset,
    done: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one prepared stage to its end; returns what `Loop.run` returns.

    `done` is the result of fewer steps, whose weights the stage begins with.
    """
    # 1. Which images make which step.
    batches = _batches(stage, recipe.seed, images)

    # 2. The steps.
    listeners = trackers.trackers(context.folder, context.name, recipe.wandb) if context.group.is_main else []
    loop = Loop(prepared.objective, batches, stage, context, listeners)
    try:
        return loop.run(prepared.export, prepared.sample, recipe.samples.every, done)
    finally:
        prepared.objective.close()


def _batches(stage: Stage, seed: int, images: ImageDataset) -> StepImages:
    """Return which images make up which step; a stage with rewards makes its own, and numbers them."""
    if stage.learns_from_rewards:
        return rl.Positions(stage.global_batch_size)
    kinds = data.buckets(images)
    if isinstance(stage, config.AutoregressiveStage) and stage.pack:
        kinds = data.one_bucket(kinds)
    return data.Batches(
        kinds,
        stage.global_batch_size,
        seed,
        images.repeats,
        stage.equal_pixels,
        stage.accumulation_steps,
        images.same_image,
    )


def prepare(
    context: StageContext, stage: Stage, recipe: Recipe, folder: Path, datasets: Datasets, kind: StageKind
) -> PreparedStage:
    """Do everything before step 1 of a stage (see `prepare_stage`), and choose what it writes and samples."""
    cache_folder = files.cache_folder() / "training"
    cache = FeatureCache(context.device, cache_folder, recipe.data.gpu_cache_gib * 2**30, context.group)
    hybrid = open_model(context, stage, recipe, folder)
    start = None
    if stage.lora is not None and (context.result.exists() or recipe.start_from is not None):
        start = context.adapter if context.result.exists() else Adapter.parse(str(recipe.start_from)).folder
    model = prepare_stage(context, kind, stage, hybrid, datasets, cache, start)
    outputs = StageOutputs(context, stage, recipe, model, kind.transformer or context.name)
    return PreparedStage(model.objective, outputs.export, outputs.sampler())


def _prepare(context: StageContext, stage: Stage, recipe: Recipe, folder: Path, datasets: Datasets) -> PreparedStage:
    kind = rl.kind(context) if stage.learns_from_rewards else stage_kinds()[context.name]
    return prepare(context, stage, recipe, folder, datasets, kind)


@contextmanager
def _open_run(
    recipe: AnyRecipe, device: torch.device, workflow: Workflow[AnyRecipe], allow_changes: bool
) -> Iterator[Datasets | None]:
    """Make the run folder or take it up again; yields the data sets of a new run, which were checked before.

    UserError when another process trains in it.
    """
    output = Path(recipe.output)
    datasets = None if (output / DATA).exists() else _checked(recipe, workflow)
    runs.check_folder(output)
    with exclusive(output, wait=False):
        remove_leftovers(output)
        check = partial(_check_changes, recipe, workflow.kind, allow_changes)
        runs.open_run(output, workflow.kind, _settings(recipe, workflow.kind), str(device), check)
        with atomic_path(output / "recipe.yaml") as temporary:
            temporary.write_text(config.to_yaml(recipe), encoding="utf-8")
        if datasets is not None:
            print("\n".join(summary.lines(datasets, recipe.largest_batch)), file=sys.stderr)
            write_json(output / DATA, {name: asdict(report) for name, report in summary.summaries(datasets).items()})
        yield datasets


def _check_changes(recipe: Recipe, kind: str, allowed: bool, changes: runs.Changes) -> None:
    """UserError unless the user has allowed changes, all of them are CHANGEABLE, and there are steps left to take."""
    output = Path(recipe.output)
    changes = {key: both for key, both in changes.items() if not NO_INFLUENCE.intersection(key.split("."))}
    fixed = {key: both for key, both in changes.items() if key.rsplit(".", 1)[-1] not in CHANGEABLE}
    if fixed or (changes and not allowed):
        runs.refuse(output, fixed or changes, "" if fixed else ", or allow it: --allow-changes")
    for name, stage in recipe.stages.items():
        path = output / f"{name}.json"
        mine = [key for key in changes if key.startswith(f"{name}.")]
        if not mine or not path.exists():
            continue
        steps = runs.read_result(path)["steps"]
        if steps >= stage.steps or kind != "finetune":  # what only pretraining learns beside a component is not kept
            raise UserError(
                f"{name} has taken its {steps} steps already, and a change needs more of them",
                found=", ".join(f"{key} was {changes[key][0]!r}, now {changes[key][1]!r}" for key in mine),
                fix=f"{name}.steps={2 * steps}" if kind == "finetune" else "output=NEW_FOLDER",
            )


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
    check_shape(before, Mapping[str, Begun], f"{Path(recipe.output) / DATA} does not say what the run began with")
    for name, now in summary.summaries(datasets).items():
        if now.content != before.get(name, {}).get("content"):
            raise UserError(
                f"the images of data.{name} or their captions have changed since this run began",
                found=f"{now.images} images, {before.get(name, {}).get('images')} when it began",
                fix="put them back as they were, or output=FOLDER for a new run",
            )
    return datasets


def _settings(recipe: Recipe, kind: str) -> dict[str, Any]:
    """Return what decides the weights, flat; the model and the adapter to start from by their content."""
    settings = _flat(recipe.model_dump(mode="json"))
    if kind == "finetune":  # a pretraining may make its model itself
        base = checkpoint.resolve(recipe.model)
        settings["model"] = {component: identity.fingerprint(base, component) for component in checkpoint.COMPONENTS}
    if recipe.start_from is not None:
        settings["start_from"] = fingerprint(Adapter.parse(recipe.start_from).folder)
    return settings


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
    rl.load_data,
    checks.datasets,
    _model_folder,
    _prepare,
    stage_kinds,
)


def describe(results: Mapping[str, Any]) -> str:
    """Tell of each stage on one line: steps, validation loss or reward before and after, time."""
    lines = []
    for name, result in results.items():
        shown = "reward" if "reward" in result["before"] else "loss"
        before, after = (result[when][shown] for when in ("before", "after"))
        seconds = f"{result['steps']} steps in {result['seconds']:.0f} s"
        lines.append(f"{name}: {seconds}, validation {shown} {before:.4f} -> {after:.4f}")
    return "\n".join(lines)
