"""Run a recipe: look at its data, then train its stages one after the other, each from files to files.

The run folder holds the resolved recipe, the manifest, a log and a result per stage, sample images, and adapters.
A stage whose result file exists is done; running the same command again continues with the next one. Of several
processes the first one writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from glmkit import config, runs
from glmkit.config import Recipe, Stage
from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.errors import UserError
from glmkit.files import atomic_path, read_json, remove_leftovers, write_json
from glmkit.models import checkpoint, clip
from glmkit.training import checks, data, distributed, fsdp, model_folder, trackers
from glmkit.training.context import StageContext
from glmkit.training.data import Datasets, summary
from glmkit.training.features import FeatureCache
from glmkit.training.initialise import initialise, initialise_clip
from glmkit.training.loop import Loop
from glmkit.training.objectives import stage_kinds
from glmkit.training.outputs import StageOutputs
from glmkit.training.stage import PreparedStage, open_model, prepare_stage

DATA = "data.json"  # in the run folder: what the images are
# What may be another when a run is continued, since the weights do not depend on it.
NO_INFLUENCE = {"workers", "gpu_cache_gib", "eval", "wandb"}


def finetune(recipe: Recipe, device: torch.device, group: ProcessGroup = SINGLE_PROCESS) -> dict[str, Any]:
    """Run every stage of `recipe` that is not done yet; returns the stages' results by name."""
    # 1. Look for what may be wrong before anything is written.
    checks.settings(recipe, device)
    distributed.check(recipe, group)
    if group.sharded:
        fsdp.check(recipe)

    # 2. Make the run folder, or take it up again.
    datasets = _open_run(recipe, device) if group.is_main else None
    group.barrier()

    # 3. Find the model; full training writes into a copy of it.
    with group.main_process_first():
        folder = _model_folder(recipe)

    # 4. Train the stages in turn.
    return train_stages(recipe, folder, datasets, device, group)


def train_stages(
    recipe: Recipe, folder: Path, datasets: Datasets | None, device: torch.device, group: ProcessGroup
) -> dict[str, Any]:
    """Train every stage that has no result yet, on the model in `folder`; `datasets` None: they are read if needed."""
    results: dict[str, Any] = {}
    for name, stage in recipe.stages.items():
        context = StageContext(Path(recipe.output), name, recipe.seed, device, group)
        if context.result.exists():
            print(f"{name}: already done ({context.result})", file=sys.stderr)
        else:
            datasets = datasets or _load_again(recipe)
            result = train_stage(context, stage, recipe, folder, datasets)
            if group.is_main:
                write_json(context.result, result)
        group.barrier()
        if group.is_main:
            context.state.unlink(missing_ok=True)
        results[name] = read_json(context.result)
    return results


def train_stage(
    context: StageContext, stage: Stage, recipe: Recipe, folder: Path, datasets: Datasets
) -> dict[str, Any]:
    """Train one stage to its end; returns what `Loop.run` returns."""
    # 1. Everything before step 1.
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)
    prepare = PREPARE.get(context.name, _prepare)
    prepared = prepare(context, stage, recipe, folder, datasets)

    # 2. Which images make which step.
    images, _ = datasets
    kinds = data.buckets(images)
    if isinstance(stage, config.AutoregressiveStage) and stage.pack:
        kinds = data.together(kinds)
    batches = data.Batches(
        kinds, stage.global_batch_size, recipe.seed, images.repeats, stage.equal_pixels, stage.accumulation_steps
    )

    # 3. The steps.
    listeners = trackers.trackers(context.folder, context.name, recipe.wandb) if context.group.is_main else []
    loop = Loop(prepared.objective, batches, stage, context, listeners)
    return loop.run(prepared.export, prepared.sample, recipe.samples.every)


def _prepare(context: StageContext, stage: Stage, recipe: Recipe, folder: Path, datasets: Datasets) -> PreparedStage:
    kind = stage_kinds()[context.name]
    cache_folder = runs.cache_folder() / "training"
    cache = FeatureCache(context.device, cache_folder, recipe.data.gpu_cache_gib * 2**30, context.group)
    hybrid = open_model(context, stage, recipe, folder)
    model = prepare_stage(context, kind, stage, hybrid, datasets, cache)
    outputs = StageOutputs(context, stage, recipe, model, kind.transformer or context.name)
    return PreparedStage(model.objective, outputs.export, outputs.sampler())


def _prepare_clip(
    context: StageContext, stage: Stage, recipe: Recipe, folder: Path, datasets: Datasets
) -> PreparedStage:
    from glmkit.training.objectives.clip import ClipObjective

    torch.manual_seed(context.seed)
    trained = clip.load(folder)
    trained.model.to(context.device)
    objective = ClipObjective(trained, *datasets, context.device)
    if stage.compile:
        objective.compile()
    return PreparedStage(objective, partial(clip.save, folder, trained, getattr(torch, recipe.save_dtype)))


PREPARE: Mapping[str, Callable[..., PreparedStage]] = {"clip": _prepare_clip}


def _open_run(recipe: Recipe, device: torch.device) -> Datasets | None:
    """Make the run folder or take it up again; returns the data sets of a new run, which were checked before."""
    output = Path(recipe.output)
    datasets = None if (output / DATA).exists() else _checked(recipe)
    remove_leftovers(output)
    remove_leftovers(output / "adapter")
    runs.open_run(output, "finetune", _flat(recipe.model_dump(mode="json")), str(device))
    with atomic_path(output / "recipe.yaml") as temporary:
        temporary.write_text(config.to_yaml(recipe), encoding="utf-8")
    if datasets is not None:
        print("\n".join(summary.lines(datasets, recipe.largest_batch)), file=sys.stderr)
        write_json(output / DATA, {name: asdict(report) for name, report in _summaries(datasets).items()})
    return datasets


def _summaries(datasets: Datasets) -> dict[str, summary.DatasetSummary]:
    return {name: summary.summarize(images) for name, images in zip(("train", "validation"), datasets, strict=True)}


def _load_again(recipe: Recipe) -> Datasets:
    """Load the data sets of a run that goes on.

    UserError when they are not those that it began with: its steps so far, their order and its losses are of those.
    """
    datasets, before = data.load(recipe.data), read_json(Path(recipe.output) / DATA)
    for name, now in _summaries(datasets).items():
        if now.content != before[name]["content"]:
            raise UserError(
                f"the images of data.{name} or their captions have changed since this run began",
                found=f"{now.images} images, {before[name]['images']} when it began",
                fix="put them back as they were, or output=FOLDER for a new run",
            )
    return datasets


def _checked(recipe: Recipe) -> Datasets:
    """Load the data sets of a new run, after a look at everything else that may be wrong with it."""
    checks.model(recipe)
    datasets = data.load(recipe.data)
    checks.condition_images(recipe, datasets)
    checks.content(recipe, datasets[0])
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
    """Return where components are read from: the model itself, or the copy that full training writes into."""
    if recipe.architecture:
        _initialise(recipe, Path(recipe.model), recipe.architecture)
    base = clip.check(Path(recipe.model)) if recipe.clip else checkpoint.resolve(recipe.model)
    if all(stage.lora is not None for stage in recipe.stages.values()):
        return base
    output = Path(recipe.output)
    maker = model_folder.PRETRAINING if recipe.architecture else None
    return model_folder.writable_copy(base, Path(recipe.save or output / "model"), output, maker)


def _initialise(recipe: Recipe, folder: Path, architecture: str) -> None:
    if not (folder / (clip.CONFIG if recipe.clip else checkpoint.INDEX)).exists():
        model_folder.claim(folder, model_folder.PRETRAINING)
    (initialise_clip if recipe.clip else initialise)(folder, architecture)


def describe(results: dict[str, Any]) -> str:
    """Tell of each stage on one line: steps, validation loss before and after, time."""
    return "\n".join(
        f"{name}: {result['steps']} steps in {result['seconds']:.0f} s, "
        f"validation loss {result['before']['loss']:.4f} -> {result['after']['loss']:.4f}"
        for name, result in results.items()
    )
