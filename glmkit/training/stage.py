"""The parts of a model that a stage needs, made ready for it: loaded or fresh, held, adapted, computed again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from glmkit import config
from glmkit.config import Stage
from glmkit.generation import pipeline
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import data, features, lora, objectives, offload
from glmkit.training import quantization as frozen
from glmkit.training.initialise import fresh_component

if TYPE_CHECKING:
    from glmkit.models.vae.model import Vae

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


def objective_of(
    name: str,
    stage: Stage,
    hybrid: HybridModel,
    images: tuple[data.ImageDataset, data.ImageDataset],
    cache: features.FeatureCache,
) -> tuple[objectives.Objective, nn.Module | None]:
    """What a stage learns, with the parts of `hybrid` made ready for it; and PEFT's wrap of what is adapted, if any."""
    adapting = None
    if stage.lora is not None:
        adapting = _Adapting(name, stage.lora, hybrid)
    else:
        for part in trained_components(name, stage):
            setattr(hybrid, part, _fresh_or_loaded(hybrid.folder, part).to(hybrid.device))
            thaw(getattr(hybrid, part), stage)
    objective = objectives.build(name, **_context(name, hybrid, stage, images, cache))
    if isinstance(stage, config.BlockStage):
        recompute(getattr(hybrid, TRANSFORMERS[name]), stage.gradient_checkpointing)
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
            waiting.on_load = hybrid.on_load
            setattr(hybrid, transformer, getattr(waiting, transformer))
        self._before, hybrid.on_load = hybrid.on_load, self
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
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = every  # type: ignore[assignment]


def thaw(part: nn.Module, stage: Stage) -> None:
    """Have gradients for everything in a part that a stage trains as a whole, or for what it trains of it."""
    part.requires_grad_(True)
    if isinstance(stage, config.VaeStage) and not stage.train_encoder:
        cast("Vae", part).autoencoder.encoder.requires_grad_(False)


def trained_components(name: str, stage: Stage) -> tuple[str, ...]:
    return (name, "glyph") if isinstance(stage, config.DecoderStage) and stage.train_glyph else (name,)


def _fresh_or_loaded(folder: Path, part: str) -> nn.Module:
    """The part with its weights; with fresh ones when it has none yet."""
    has_weights = any((folder / checkpoint.COMPONENTS[part].folder).glob("*.safetensors")) and bool(
        checkpoint.stored_tensors(folder, part)
    )
    if has_weights:
        return checkpoint.load_component(folder, part)
    return fresh_component(folder, part)


def _context(
    name: str,
    hybrid: HybridModel,
    stage: Stage,
    images: tuple[data.ImageDataset, data.ImageDataset],
    cache: features.FeatureCache,
) -> dict[str, Any]:
    common = {"images": images[0], "validation": images[1], "stage": stage}
    if name in config.EDITING:
        return {**common, "hybrid": hybrid, "cache": cache}
    parts: dict[str, Any] = {part: getattr(hybrid, part) for part in NEEDS[name]}
    if name == "semantic_vq":
        parts["text_tokenizer"] = pipeline.prompt_tokenizer(hybrid.folder).tokenizer
    return {**common, **parts, "device": cache.device}
