"""What each stage learns: one file per stage, one class with `loss` and `validation_losses`; `loop.py` is the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from glmkit.models import checkpoint

if TYPE_CHECKING:
    from glmkit.models.hybrid import HybridModel
    from glmkit.training.data import Datasets
    from glmkit.training.features import FeatureCache

EVERY = slice(None)


class Objective(Protocol):
    """The seam between the loop and a stage. Everything random comes from the generator that the loop passes in."""

    trained: nn.Module
    """Holds every trained parameter (those that require gradients), also components that only training needs."""

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of the images `indices`, and what to show beside it (detached scalars)."""

    def validation_losses(self) -> dict[str, float]:
        """Return losses on images never trained on, with fixed noise and times; the one called `loss` counts."""

    def before_step(self, step: int, indices: Sequence[int], tell: Callable[[str], None]) -> None:
        """Do what the coming step needs; this process learns `indices` in it, and `tell` shows how far that is."""
        del step, indices, tell

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Do what is left to do after an optimizer step; by default nothing."""
        del step, generator

    def finish(self) -> None:
        """Do what is left to do when the last step is done and averaged weights, if any, are in place."""
        return

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Look at the logged means of one step; UserError when the run had better stop."""
        del step, metrics

    def state(self) -> dict[str, Any]:
        """Return what a run needs to go on, beside its weights; by default nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned. Any exception says that it is of something else."""
        del state

    def close(self) -> None:
        """End what runs beside the process; by default nothing does."""
        return

    def compile(self) -> None:
        """Compile what runs every step."""


class Divisible(Objective, Protocol):
    """A stage that processes may learn together, also by the samples of one micro-batch."""

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of some samples (`rows`), everything random sampled as for all.

        The loss of all samples is the mean over equal parts, but for dropout, and for means whose weights depend on
        the data (see `distributed.check`).
        """


@dataclass(frozen=True)
class StageKind:
    """Hold what `prepare_stage` puts together for one kind of stage.

    - `objective(model, features, datasets, stage)`: on a model that is prepared; it loads, unloads and adapts nothing.
    - `precompute(model, datasets, stage, cache)`: the features that the objective reads, whatever they are.
    - `encoders`: components that only compute features; they leave the memory before the transformer is loaded.
    - `transformer`: the component that gradients pass through, whatever is trained: it takes the memory.
    - `load(folder, component)`: what full training begins with, in float32 on the CPU.
    """

    objective: Callable[[HybridModel, Any, Datasets, Any], Objective]
    precompute: Callable[[HybridModel, Datasets, Any, FeatureCache], Any] = lambda *_: None
    encoders: tuple[str, ...] = ()
    transformer: str | None = None
    load: Callable[[Path, str], nn.Module] = checkpoint.load_component

    def encoders_of(self, stage: Any) -> tuple[str, ...]:
        """Return the encoders that a stage does not train."""
        trained = ("glyph",) if getattr(stage, "train_glyph", False) else ()
        return tuple(component for component in self.encoders if component not in trained)

    def components(self, name: str) -> tuple[str, ...]:
        """Return every component that stage `name` reads; the first is what it trains."""
        transformer = (self.transformer,) if self.transformer else ()
        return tuple(dict.fromkeys((name, *transformer, *self.encoders)))

    def build(self, model: HybridModel, datasets: Datasets, stage: Any, cache: FeatureCache) -> Objective:
        """Precompute the features, unload the encoders, and return the objective on a model that is prepared."""
        features = self.precompute(model, datasets, stage, cache)
        model.unload(*self.encoders_of(stage))
        return self.objective(model, features, datasets, stage)


def stage_kinds() -> dict[str, StageKind]:
    """Return what each stage of fine-tuning is made of where it learns from images; see also `training.rl`."""
    from glmkit.training.objectives import autoregressive, decoder, glyph

    return {"autoregressive": autoregressive.KIND, "decoder": decoder.KIND, "glyph": glyph.KIND}
