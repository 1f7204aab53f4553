"""A recipe, run: data, then its stages one after the other, each from files to files.

The run folder holds the resolved recipe, the manifest, a log and a result a stage, sample pictures, and adapters.
A stage whose result file exists is done; running the same command again continues with the next one. Of several
processes the first one writes.
"""

from __future__ import annotations

import os
import shutil
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
from glmkit.errors import UserError
from glmkit.files import atomic_path, read_json, remove_leftovers, write_json
from glmkit.generation import pipeline
from glmkit.models import adapter, checkpoint, clip
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq import halved_size
from glmkit.training import cache, data, frozen, libraries, lora, objectives, offload, processes, sharding, trackers
from glmkit.training.data import report
from glmkit.training.initialise import fresh_part, initialise, initialise_clip
from glmkit.training.loop import Loop, Place
from glmkit.training.objectives.decoder import check_text
from glmkit.training.objectives.vae import check_crop
from glmkit.training.samples import Sampler, requests_of

MAX_SHARD_BYTES = 15 * 2**20
# What may be another when a run is continued, since the weights do not depend on it.
UNBOUND = {"workers", "resident_gib", "proof", "wandb"}
# Which parts of the model each stage reads; the first is what it trains.
NEEDS = {
    "vae": ("vae",),
    "semantic_vq": ("semantic_vq",),
    "autoregressive": ("autoregressive", "semantic_vq"),
    "decoder": ("decoder", "glyph", "vae", "semantic_vq"),
    "glyph": ("glyph", "decoder", "vae", "semantic_vq"),
}
# Through which transformer the gradient of a stage goes: the part that takes the memory, whatever is trained.
TRANSFORMERS = {"autoregressive": "autoregressive", "decoder": "decoder", "glyph": "decoder"}


def finetune(recipe: Recipe, device: torch.device, team: processes.Team = processes.ALONE) -> dict[str, Any]:
    """Run every stage of `recipe` that is not done yet; returns the stages' results by name."""
    libraries.check(recipe)
    processes.check(recipe, team)
    if team.sharded:
        sharding.check(recipe)
    pictures = _open(recipe, device) if team.is_main else None
    team.wait()
    with team.main_first():
        folder = _model_folder(recipe)
    results: dict[str, Any] = {}
    for name, stage in recipe.stages.items():
        place = Place(Path(recipe.output), name, recipe.seed, device, team)
        result = place.folder / f"{name}.json"
        if result.exists():
            print(f"{name}: already done ({result})", file=sys.stderr)
        else:
            pictures = pictures or data.load(recipe.data)
            outcome = _run_stage(place, stage, recipe, folder, pictures)
            if team.is_main:
                write_json(result, outcome)
        team.wait()
        if team.is_main:
            place.state.unlink(missing_ok=True)
        results[name] = read_json(result)
    return results


def _open(recipe: Recipe, device: torch.device) -> tuple[data.Pictures, data.Pictures] | None:
    """Make the run folder or take it up again; the pictures of a new run, which were looked at before."""
    output = Path(recipe.output)
    pictures = None if (output / "manifest.json").exists() else _checked(recipe, device)
    remove_leftovers(output)
    remove_leftovers(output / "adapter")
    runs.open_run(output, "finetune", _flat(recipe.model_dump(mode="json")), str(device))
    with atomic_path(output / "recipe.yaml") as temporary:
        temporary.write_text(config.to_yaml(recipe), encoding="utf-8")
    if pictures is not None:
        print("\n".join(report.lines(pictures, recipe.largest_batch)), file=sys.stderr)
        sets = zip(("train", "held_out"), pictures, strict=True)
        write_json(output / "data.json", {name: asdict(report.of(own)) for name, own in sets})
    return pictures


def _checked(recipe: Recipe, device: torch.device) -> tuple[data.Pictures, data.Pictures]:
    """The pictures of a new run, after a look at everything else that may be wrong with it: a run folder fixes its
    recipe, so a mistake must not leave one.
    """
    if recipe.architecture:
        if recipe.model == "nano":
            raise UserError("architecture makes a new model, and nano exists", fix="model=FOLDER, or architecture=null")
        config.read_yaml(recipe.architecture)
    elif recipe.clip:
        clip.check(Path(recipe.model))
    else:
        base = checkpoint.resolve(recipe.model)
        for name, stage in recipe.stages.items():
            if stage.lora is not None:
                frozen.check(name, stage.lora, device)
                with torch.device("meta"):
                    lora.inject(checkpoint.new_part(base, name), stage.lora)
        for request in requests_of(base, recipe.samples):
            pipeline.check(request)
        if recipe.data.edits:
            for size in recipe.data.edits.shares:
                _check_source_size(size, HybridModel(base), "data.edits.size")
    pictures = data.load(recipe.data)
    if not recipe.architecture:
        for size in sorted({own.sizes[source] for own in pictures for source in own.sources.values()}):
            _check_source_size(size, HybridModel(checkpoint.resolve(recipe.model)), "data.size")
    if recipe.vae is not None:
        check_crop(pictures[0], recipe.vae)
    for stage in recipe.stages.values():
        if isinstance(stage, config.DecoderStage):
            check_text(pictures[0], stage)
    return pictures


def _check_source_size(size: tuple[int, int], hybrid: HybridModel, key: str) -> None:
    """Training encodes sources as they are; the model would scale those of other sizes (height, width) first."""
    height, width = size
    settings = hybrid.source_settings
    rows, columns = (2 * side for side in halved_size(height, width, settings.min_pixels, settings.max_pixels))
    if (rows, columns) != (height, width):
        raise UserError(
            "the model reads source pictures of this size at another one",
            found=f"{width}x{height}, read as {columns}x{rows}",
            fix=f"{key}={columns}x{rows}",
        )


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
    if all(stage.method == "lora" for stage in recipe.stages.values()):
        return base
    target = Path(recipe.save or Path(recipe.output) / "model")
    index = clip.CONFIG if recipe.clip else checkpoint.INDEX
    if target.resolve() != base.resolve() and not (target / index).exists():
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copytree(base, unfinished)
        unfinished.rename(target)
    return target


def _run_stage(
    place: Place, stage: Stage, recipe: Recipe, folder: Path, pictures: tuple[data.Pictures, data.Pictures]
) -> dict[str, Any]:
    torch.manual_seed(recipe.seed)  # fresh weights: new parts and adapters
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place.device)
    if place.name == "clip":
        work = _clip_work(recipe, folder, pictures, place.device)
    else:
        work = _hybrid_work(place, stage, recipe, folder, pictures)
    if stage.compile:
        work.objective.compile()
    train = pictures[0]
    kinds = data.buckets(train)
    if isinstance(stage, config.AutoregressiveStage) and stage.pack:
        kinds = data.together(kinds)
    batches = data.Batches(kinds, stage.batch_size, recipe.seed, train.repeats, stage.equal_pixels, stage.accumulate)
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
    recipe: Recipe, folder: Path, pictures: tuple[data.Pictures, data.Pictures], device: torch.device
) -> _Work:
    trained = clip.load(folder)
    trained.model.to(device)
    objective = objectives.build("clip", clip=trained, pictures=pictures[0], held_out=pictures[1], device=device)
    return _Work(objective, lambda: clip.save(folder, trained, getattr(torch, recipe.save_dtype)))


def _hybrid_work(
    place: Place, stage: Stage, recipe: Recipe, folder: Path, pictures: tuple[data.Pictures, data.Pictures]
) -> _Work:
    name, team, model = place.name, place.team, partial(_model, place, stage, recipe, folder)
    hybrid = model()
    keeper = cache.Keeper(place.device, runs.cache_folder() / "training", recipe.data.resident_gib * 2**30, team)
    objective, wrapped = objective_of(name, stage, hybrid, pictures, keeper)
    transformer = TRANSFORMERS.get(name, name)
    if team.sharded:
        edits = any(own.sources for own in pictures)
        sharding.shard(getattr(hybrid, transformer), place.device, team, edits)
    drawn = place.folder / "samples"
    sampler = Sampler.for_stage(name, hybrid, recipe.samples, drawn) if recipe.samples.prompts else None

    def write(what: Callable[[nn.Module | None], None], part: str) -> None:
        """In the first process, given PEFT's wrap, and with `part` whole."""
        in_shards = team.sharded and part == transformer
        with sharding.whole(part, stage, hybrid, model(), team) if in_shards else nullcontext(wrapped) as own:
            if team.is_main:
                what(own)
        team.wait()

    parts = _trained_parts(name, stage)
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
        own = adapter.Adapter(place.folder / "adapter")
        hybrid.finish = lambda part, module: adapter.merged(module, part, own) if part in adapted else module
    return hybrid


def objective_of(
    name: str,
    stage: Stage,
    hybrid: HybridModel,
    pictures: tuple[data.Pictures, data.Pictures],
    keeper: cache.Keeper,
) -> tuple[objectives.Objective, nn.Module | None]:
    """What a stage learns, with the parts of `hybrid` made ready for it; and PEFT's wrap of what is adapted, if any."""
    adapting = None
    if stage.lora is not None:
        adapting = _Adapting(name, stage.lora, hybrid)
    else:
        for part in _trained_parts(name, stage):
            setattr(hybrid, part, _fresh_or_loaded(hybrid.folder, part).to(hybrid.device).requires_grad_(True))
    objective = objectives.build(name, **_context(name, hybrid, stage, pictures, keeper))
    if isinstance(stage, config.BlockStage):
        recompute(getattr(hybrid, TRANSFORMERS[name]), stage.recompute_every)
    return objective, adapting.wrapped if adapting else None


class _Adapting:
    """Holds and adapts the parts of a stage when they are loaded: after the encoders, which have then left. Together
    they would take more memory than training does.
    """

    def __init__(self, name: str, settings: config.Lora, hybrid: HybridModel) -> None:
        self.wrapped: nn.Module | None = None
        self._name, self._settings, self._device = name, settings, hybrid.device
        self._random = torch.get_rng_state()  # adapters begin alike, whatever the encoders had left to do
        transformer = TRANSFORMERS[name]
        if settings.offload and transformer not in vars(hybrid):
            waiting = HybridModel(hybrid.folder, "cpu", hybrid.dtype, hybrid.name)  # the GPU may be too small for it
            waiting.finish = hybrid.finish
            setattr(hybrid, transformer, getattr(waiting, transformer))
        self._before, hybrid.finish = hybrid.finish, self
        for part in {transformer, name} & vars(hybrid).keys():
            self._adapt(part, getattr(hybrid, part))

    def __call__(self, part: str, module: nn.Module) -> nn.Module:
        module = self._before(part, module) if self._before else module
        self._adapt(part, module)
        return module

    def _adapt(self, part: str, module: nn.Module) -> None:
        if part == TRANSFORMERS[self._name]:
            hold(module, self._settings, self._device)
        if part == self._name:
            torch.set_rng_state(self._random)
            self.wrapped = lora.inject(module, self._settings)


def hold(module: nn.Module, settings: config.Lora, device: torch.device) -> None:
    """Have the frozen weights of a transformer be held as a recipe wants them."""
    if settings.base in frozen.QUANTISED:
        frozen.quantise(module, settings.base)
    if settings.offload:
        offload.offload(module, device)


def recompute(transformer: nn.Module, every: int) -> None:
    """Have every `every`-th layer of a transformer keep its inputs only (see `models.recompute`)."""
    for module in transformer.modules():
        if hasattr(module, "recompute_every"):
            module.recompute_every = every  # type: ignore[assignment]


def _trained_parts(name: str, stage: Stage) -> tuple[str, ...]:
    return (name, "glyph") if isinstance(stage, config.DecoderStage) and stage.train_glyph else (name,)


def _fresh_or_loaded(folder: Path, part: str) -> nn.Module:
    """The part with its weights; with fresh ones when it has none yet."""
    has_weights = any((folder / checkpoint.PARTS[part].folder).glob("*.safetensors")) and bool(
        checkpoint.contents(folder, part)
    )
    if has_weights:
        return checkpoint.load_part(folder, part)
    return fresh_part(folder, part)


def _context(
    name: str,
    hybrid: HybridModel,
    stage: Stage,
    pictures: tuple[data.Pictures, data.Pictures],
    keeper: cache.Keeper,
) -> dict[str, Any]:
    common = {"pictures": pictures[0], "held_out": pictures[1], "stage": stage}
    if name in config.EDITING:
        return {**common, "hybrid": hybrid, "keeper": keeper}
    parts: dict[str, Any] = {part: getattr(hybrid, part) for part in NEEDS[name]}
    if name == "semantic_vq":
        parts["text_tokenizer"] = pipeline.prompt_tokenizer(hybrid.folder).tokenizer
    return {**common, **parts, "device": keeper.device}


def _export(
    name: str, hybrid: HybridModel, wrapped: nn.Module | None, trained: tuple[str, ...], recipe: Recipe
) -> None:
    if wrapped is not None:
        lora.save(wrapped, Path(recipe.output) / "adapter" / name, name, hybrid.folder)
        return
    for part in trained:
        checkpoint.save_part(
            hybrid.folder, part, getattr(hybrid, part), getattr(torch, recipe.save_dtype), MAX_SHARD_BYTES
        )


def describe(results: dict[str, Any]) -> str:
    """One line a stage: steps, held-out loss before and after, time."""
    return "\n".join(
        f"{name}: {result['steps']} steps in {result['seconds']:.0f} s, "
        f"held-out loss {result['before']['loss']:.4f} -> {result['after']['loss']:.4f}"
        for name, result in results.items()
    )
