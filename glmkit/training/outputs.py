"""What users see of a stage while it trains: adapters or components, and sample images. The first process writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from glmkit.config import Recipe, Stage
from glmkit.models import checkpoint
from glmkit.training import fsdp, lora, model_folder
from glmkit.training.context import StageContext
from glmkit.training.samples import Sample, SampleFunction, Sampler
from glmkit.training.stage import StageModel, open_model, trained_components

MAX_SHARD_BYTES = 15 * 2**20

Result = TypeVar("Result")


@dataclass(frozen=True)
class StageOutputs:
    """Writes the weights and the samples of one stage; every process calls both. `transformer` may be in shards."""

    context: StageContext
    stage: Stage
    recipe: Recipe
    model: StageModel
    transformer: str

    def export(self) -> None:
        """Write the trained weights where users find them, whole and loadable."""
        self._in_main_process(self._write_weights, self.context.name)

    def sampler(self) -> SampleFunction | None:
        """Return what makes the samples of one step, if the recipe asks for any."""
        samples = self.recipe.samples
        if not samples.prompts:
            return None
        low_memory = self.stage.lora is not None and self.stage.lora.is_low_memory
        folder = self.context.folder / "samples"
        make = Sampler.for_stage(self.context.name, self.model.hybrid, samples, folder, low_memory)

        def sample(step: int) -> Sequence[Sample]:
            return self._in_main_process(lambda _: make(step), self.transformer) or ()

        return sample

    def _write_weights(self, adapted: nn.Module | None) -> None:
        hybrid = self.model.hybrid
        if self.stage.lora is not None:
            assert adapted is not None
            lora.save(adapted, self.context.adapter, self.context.name, hybrid.folder)
            return
        model_folder.check_ours(hybrid.folder, self.context.folder)
        dtype = getattr(torch, self.recipe.save_dtype)
        for component in trained_components(self.context.name, self.stage):
            module = getattr(hybrid, component)
            checkpoint.save_component(hybrid.folder, component, module, dtype, MAX_SHARD_BYTES)

    def _in_main_process(self, write: Callable[[nn.Module | None], Result], component: str) -> Result | None:
        """Call `write` with PEFT's wrap, if any, in the first process, with `component` whole; others get None."""
        group, hybrid = self.context.group, self.model.hybrid
        whole: AbstractContextManager[nn.Module | None]
        if group.sharded and component == self.transformer:
            unchanged = open_model(self.context, self.stage, self.recipe, hybrid.folder)
            whole = fsdp.whole_component(component, self.stage, hybrid, unchanged, group)
        else:
            whole = nullcontext(self.model.adapted)
        with whole as adapted:
            result = write(adapted) if group.is_main else None
        group.barrier()
        return result
