"""A recipe, run: data, then its stages one after the other, each from files to files.

The run folder holds the resolved recipe, the manifest, a log and a result a stage, sample images, and adapters.
A stage whose result file exists is done; running the same command again continues with the next one. Of several
processes the first one writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glmkit import config, runs
from glmkit.config import Recipe, Stage
from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.errors import UserError
from glmkit.files import atomic_path, read_json, remove_leftovers, write_json
from glmkit.models import checkpoint, clip
from glmkit.models.checkpoint import adapters
from glmkit.models.hybrid import HybridModel
from glmkit.training import checks, data, features, lora, objectives, trackers
from glmkit.training import distributed as processes
from glmkit.training import fsdp as sharding
from glmkit.training import quantization as frozen
from glmkit.training.data import summary as report
from glmkit.training.initialise import initialise, initialise_clip
from glmkit.training.loop import Loop, Place
from glmkit.training.samples import Sampler
from glmkit.training.stage import TRANSFORMERS, objective_of, trained_components

DATA = "data.json"  # in the run folder: what the images are
MAX_SHARD_BYTES = 15 * 2**20
# What may be another when a run is continued, since the weights do not depend on it.
UNBOUND = {"workers", "gpu_cache_gib", "eval", "wandb"}


def finetune(recipe: Recipe, device: torch.device, team: ProcessGroup = SINGLE_PROCESS) -> dict[str, Any]:
    """Run every stage of `recipe` that is not done yet; returns the stages' results by name."""
    checks.settings(recipe, device)
    processes.check(recipe, team)
    if team.sharded:
        sharding.check(recipe)
    images = _open(recipe, device) if team.is_main else None
    team.barrier()
    with team.main_process_first():
        folder = _model_folder(recipe)
    results: dict[str, Any] = {}
    for name, stage in recipe.stages.items():
        place = Place(Path(recipe.output), name, recipe.seed, device, team)
        result = place.folder / f"{name}.json"
        if result.exists():
            print(f"{name}: already done ({result})", file=sys.stderr)
        else:
            images = images or _again(recipe)
            outcome = _run_stage(place, stage, recipe, folder, images)
            if team.is_main:
                write_json(result, outcome)
        team.barrier()
        if team.is_main:
            place.state.unlink(missing_ok=True)
        results[name] = read_json(result)
    return results


def _open(recipe: Recipe, device: torch.device) -> tuple[data.ImageDataset, data.ImageDataset] | None:
    """Make the run folder or take it up again; the images of a new run, which were looked at before."""
    output = Path(recipe.output)
    images = None if (output / DATA).exists() else _checked(recipe)
    remove_leftovers(output)
    remove_leftovers(output / "adapter")
    runs.open_run(output, "finetune", _flat(recipe.model_dump(mode="json")), str(device))
    with atomic_path(output / "recipe.yaml") as temporary:
        temporary.write_text(config.to_yaml(recipe), encoding="utf-8")
    if images is not None:
        print("\n".join(report.lines(images, recipe.largest_batch)), file=sys.stderr)
        write_json(output / DATA, {name: asdict(own) for name, own in _reports(images).items()})
    return images


def _reports(images: tuple[data.ImageDataset, data.ImageDataset]) -> dict[str, report.Report]:
    return {name: report.of(own) for name, own in zip(("train", "validation"), images, strict=True)}


def _again(recipe: Recipe) -> tuple[data.ImageDataset, data.ImageDataset]:
    """The images of a run that goes on; UserError when they are not those that it began with, of which its steps so
    far, their order and the losses before are.
    """
    images, began = data.load(recipe.data), read_json(Path(recipe.output) / DATA)
    for name, own in _reports(images).items():
        if own.content != began[name]["content"]:
            raise UserError(
                f"the images of data.{name} or their captions have changed since this run began",
                found=f"{own.images} images, {began[name]['images']} when it began",
                fix="put them back as they were, or output=FOLDER for a new run",
            )
    return images


def _checked(recipe: Recipe) -> tuple[data.ImageDataset, data.ImageDataset]:
    """The images of a new run, after a look at everything else that may be wrong with it."""
    checks.model(recipe)
    images = data.load(recipe.data)
    checks.condition_images(recipe, images)
    checks.content(recipe, images[0])
    return images


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as `a.b.c: value`, so that a difference between two runs can be named, but for UNBOUND."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in UNBOUND:
            continue
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _model_folder(recipe: Recipe) -> Path:
    """Where parts are read from: the model itself, or the folder that full training writes into."""
    if recipe.architecture:
        make = initialise_clip if recipe.clip else initialise
        make(Path(recipe.model), recipe.architecture)
    base = clip.check(Path(recipe.model)) if recipe.clip else checkpoint.resolve(recipe.model)
    if all(stage.lora is not None for stage in recipe.stages.values()):
        return base
    target = Path(recipe.save or Path(recipe.output) / "model")
    index = clip.CONFIG if recipe.clip else checkpoint.INDEX
    if target.resolve() != base.resolve() and not (target / index).exists():
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        checkpoint.copy(base, unfinished)
        unfinished.rename(target)
    return target


def _run_stage(
    place: Place, stage: Stage, recipe: Recipe, folder: Path, images: tuple[data.ImageDataset, data.ImageDataset]
) -> dict[str, Any]:
    torch.manual_seed(recipe.seed)  # fresh weights: new parts and adapters
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place.device)
    if place.name == "clip":
        work = _clip_work(recipe, folder, images, place.device)
    else:
        work = _hybrid_work(place, stage, recipe, folder, images)
    if stage.compile:
        work.objective.compile()
    train = images[0]
    kinds = data.buckets(train)
    if isinstance(stage, config.AutoregressiveStage) and stage.pack:
        kinds = data.together(kinds)
    batches = data.Batches(
        kinds, stage.global_batch_size, recipe.seed, train.repeats, stage.equal_pixels, stage.accumulation_steps
    )
    listening = trackers.trackers(place.folder, place.name, recipe.wandb) if place.team.is_main else []
    loop = Loop(work.objective, batches, stage, place, listening)
    return loop.run(work.export, work.sampler, recipe.samples.every)


@dataclass(frozen=True)
class _Work:
    """What the loop is given of a stage: what it learns, how its weights are written, and who draws samples."""

    objective: objectives.Objective
    export: Callable[[], None]
    sampler: Callable[[int], None] | None = None


def _clip_work(
    recipe: Recipe, folder: Path, images: tuple[data.ImageDataset, data.ImageDataset], device: torch.device
) -> _Work:
    trained = clip.load(folder)
    trained.model.to(device)
    objective = objectives.build("clip", clip=trained, images=images[0], validation=images[1], device=device)
    return _Work(objective, lambda: clip.save(folder, trained, getattr(torch, recipe.save_dtype)))


def _hybrid_work(
    place: Place, stage: Stage, recipe: Recipe, folder: Path, images: tuple[data.ImageDataset, data.ImageDataset]
) -> _Work:
    name, team, model = place.name, place.team, partial(_model, place, stage, recipe, folder)
    hybrid = model()
    cache = features.FeatureCache(
        place.device, runs.cache_folder() / "training", recipe.data.gpu_cache_gib * 2**30, team
    )
    objective, wrapped = objective_of(name, stage, hybrid, images, cache)
    transformer = TRANSFORMERS.get(name, name)
    if team.sharded:
        edits = any(own.condition_images for own in images)
        sharding.shard(getattr(hybrid, transformer), place.device, team, edits)
    drawn = place.folder / "samples"
    sampler = Sampler.for_stage(name, hybrid, recipe.samples, drawn) if recipe.samples.prompts else None

    def write(what: Callable[[nn.Module | None], None], part: str) -> None:
        """In the first process, given PEFT's wrap, and with `part` whole."""
        in_shards = team.sharded and part == transformer
        with sharding.whole(part, stage, hybrid, model(), team) if in_shards else nullcontext(wrapped) as own:
            if team.is_main:
                what(own)
        team.barrier()

    parts = trained_components(name, stage)
    return _Work(
        objective,
        lambda: write(lambda wrap: _export(name, hybrid, wrap, parts, recipe), name),
        (lambda step: write(lambda _: sampler(step), transformer)) if sampler else None,
    )


def _model(place: Place, stage: Stage, recipe: Recipe, folder: Path) -> HybridModel:
    """The model that a stage begins with."""
    hybrid = HybridModel(folder, place.device, frozen.dtype(stage.lora, place.device), recipe.model)
    earlier = [other for other in recipe.stages if other != place.name and (place.folder / f"{other}.json").exists()]
    adapted = [other for other in earlier if (place.folder / "adapter" / other).exists()]
    if adapted and (recipe.samples.prompts or place.name == "glyph"):
        # Samples show what the whole run has learnt so far, and the glyph encoder learns for the adapted decoder.
        own = adapters.Adapter(place.folder / "adapter")
        hybrid.on_load = lambda part, module: adapters.merge_adapter(module, part, own) if part in adapted else module
    return hybrid


def _export(
    name: str, hybrid: HybridModel, wrapped: nn.Module | None, trained: tuple[str, ...], recipe: Recipe
) -> None:
    if wrapped is not None:
        lora.save(wrapped, Path(recipe.output) / "adapter" / name, name, hybrid.folder)
        return
    for part in trained:
        checkpoint.save_component(
            hybrid.folder, part, getattr(hybrid, part), getattr(torch, recipe.save_dtype), MAX_SHARD_BYTES
        )


def describe(results: dict[str, Any]) -> str:
    """One line a stage: steps, validation loss before and after, time."""
    return "\n".join(
        f"{name}: {result['steps']} steps in {result['seconds']:.0f} s, "
        f"validation loss {result['before']['loss']:.4f} -> {result['after']['loss']:.4f}"
        for name, result in results.items()
    )
