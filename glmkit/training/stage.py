"""What happens before step 1 of a stage, in order: `prepare_stage`. The loop then only takes steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from glmkit import config
from glmkit.config import Lora, Recipe, Stage
from glmkit.models.checkpoint import adapter_files, adapters
from glmkit.models.hybrid import HybridModel
from glmkit.training import fsdp, lora, offload, quantization
from glmkit.training.context import StageContext
from glmkit.training.data import Datasets
from glmkit.training.features import FeatureCache
from glmkit.training.objectives import Objective, StageKind
from glmkit.training.samples import SampleFunction


@dataclass(frozen=True)
class PreparedStage:
    """Hold what the loop is given: what a stage learns, how its weights are written, and what makes samples of them."""

    objective: Objective
    export: Callable[[], None]
    sample: SampleFunction | None = None


@dataclass(frozen=True)
class StageModel:
    """The model of a stage that is ready for step 1; `adapted` is PEFT's wrap of what has adapters, if anything has."""

    hybrid: HybridModel
    objective: Objective
    adapted: nn.Module | None


def prepare_stage(
    context: StageContext,
    kind: StageKind,
    stage: Stage,
    hybrid: HybridModel,
    datasets: Datasets,
    cache: FeatureCache,
    start: Path | None = None,
) -> StageModel:
    """Make `hybrid`, of which nothing is loaded yet (`open_model`), ready for step 1 of a stage.

    `start` is an adapter to begin with, if it adapts this component.
    The encoders leave the memory before the transformer is loaded: together they would take more than training does.
    """
    # 1. Load the components. Those that are trained whole come now, in float32; an encoder comes when a feature is
    #    missing that it has to compute, and a transformer under adapters when the encoders have left.
    torch.manual_seed(context.seed)
    trained = trained_components(context.name, stage)
    if stage.lora is None:
        for component in trained:
            setattr(hybrid, component, kind.load(hybrid.folder, component).to(context.device))

    # 2. Precompute the features of every image.
    features = kind.precompute(hybrid, datasets, stage, cache)

    # 3. Unload the encoders.
    hybrid.unload(*kind.encoders_of(stage))

    # 4. Quantize and offload the frozen weights under adapters.
    if stage.lora is not None and kind.transformer is not None:
        if stage.lora.offload and kind.transformer not in vars(hybrid):
            offload.load_on_cpu(hybrid, kind.transformer)
        quantize_and_offload(getattr(hybrid, kind.transformer), stage.lora, context.device)

    # 5. Inject adapters, or unfreeze what is trained whole; of several processes, each may keep a shard.
    adapted = None
    if stage.lora is not None:
        torch.manual_seed(context.seed)  # adapters begin alike, whatever the encoders had left to do
        adapted = lora.inject(getattr(hybrid, context.name), stage.lora)
        if start is not None and (begun := adapter_files.read(start).get(context.name)):
            adapters.load(adapted, begun)
    else:
        for component in trained:
            getattr(hybrid, component).requires_grad_(True)
    objective = kind.objective(hybrid, features, datasets, stage)
    if context.group.sharded and kind.transformer is not None:
        with_edits = any(images.condition_images for images in datasets)
        fsdp.shard(getattr(hybrid, kind.transformer), context.device, context.group, with_edits)

    # 6. Checkpoint gradients and compile.
    if isinstance(stage, config.BlockStage) and kind.transformer is not None:
        checkpoint_gradients(getattr(hybrid, kind.transformer), stage.gradient_checkpointing)
    if stage.compile:
        objective.compile()
    return StageModel(hybrid, objective, adapted)


def open_model(context: StageContext, stage: Stage, recipe: Recipe, folder: Path) -> HybridModel:
    """Return the model that a stage begins with, nothing of it loaded yet.

    Components that earlier stages of the run adapted load with these adapters where that matters: samples show what
    the whole run has learnt so far, rewards are for images of it, and the glyph encoder learns for the adapted decoder.
    """
    hybrid = HybridModel(folder, context.device, quantization.dtype(stage.lora, context.device), recipe.model)
    earlier = [name for name in recipe.stages if name != context.name and (context.folder / f"{name}.json").exists()]
    adapted = [name for name in earlier if (context.folder / "adapter" / name).exists()]
    if adapted and (recipe.samples.prompts or stage.learns_from_rewards or context.name == "glyph"):
        adapter = adapters.Adapter(context.folder / "adapter")
        # What rewards have taught is small: in weights of 16 bits, rounding would take most of it away.
        adapt = adapters.add_adapter if stage.learns_from_rewards else adapters.merge_adapter
        hybrid.on_load = lambda name, module: adapt(module, name, adapter) if name in adapted else module
    return hybrid


def trained_components(name: str, stage: Stage) -> tuple[str, ...]:
    """Return the components that a stage trains."""
    return (name, "glyph") if isinstance(stage, config.DecoderStage) and stage.train_glyph else (name,)


def quantize_and_offload(transformer: nn.Module, settings: Lora, device: torch.device) -> None:
    """Hold the frozen weights of a transformer as a recipe asks."""
    if settings.base in quantization.QUANTIZED:
        quantization.quantize(transformer, settings.base)
    if settings.offload:
        offload.offload(transformer, device)


def checkpoint_gradients(transformer: nn.Module, every: int) -> None:
    """Have every `every`-th layer keep its inputs only (see `models.gradient_checkpointing`); 0: none."""
    for module in transformer.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = every  # type: ignore[assignment]
