"""Throughput of training: the real objective and the loop's step on random images, beside a lower bound (roofline).

The lower bound of one step is what its products cost at the rate that large products reach on the same device, measured
in the same run: forwards and back to the activations, of frozen weights no gradient; layers under gradient
checkpointing count again. Several processes have that rate each, and exchange takes no time. A model is built once for
all cases that differ only in their images and checkpointing.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from glmkit.config import STAGES, BlockStage, Lora, Stage
from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.errors import UserError, first_line
from glmkit.models.devices import dtype_for
from glmkit.models.hardware import Clock, DeviceRates, measure_rates, memory_cap, peak_memory_gib, reset_peak_memory
from glmkit.models.hybrid import HybridModel
from glmkit.training import data, distributed, fsdp, lora, quantization
from glmkit.training.context import StageContext
from glmkit.training.features import FeatureCache
from glmkit.training.flops import CAPTION, sequence_tokens, training_flops
from glmkit.training.loop import Loop
from glmkit.training.objectives import stage_kinds
from glmkit.training.stage import checkpoint_gradients, quantize_and_offload

TARGETS = {
    "autoregressive": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
    "decoder": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
}
FROM_STAGE = ("gradient_checkpointing", "accumulation_steps", "compile")
FROM_LORA = ("base", "offload", "rank")
COLUMNS = (
    "batch",
    "accumulation_steps",
    "edits",
    "gradient_checkpointing",
    "base",
    "full_finetuning",
    "pack",
    "offload",
    "compile",
    "cap_gib",
)


@dataclass(frozen=True)
class TrainingCase:
    """One row of the benchmark: what is trained, on which images, and how its memory is spent.

    `cap_gib` is all that a GPU gives. `edits`: every image has a condition image of its own. `regularization_images`:
    a stage with a regularization weight uses other images than those it learns. `full_finetuning`: all weights learn,
    in float32, in place of adapters. `recipe_stage` is the stage of a recipe that the case measures, if it does.
    """

    name: str
    height: int
    width: int
    batch: int
    gradient_checkpointing: int = 0
    base: str = "auto"
    pack: bool = False
    offload: bool = False
    compile: bool = False
    cap_gib: float | None = None
    rank: int = 16
    accumulation_steps: int = 1
    edits: bool = False
    regularization_images: bool = False
    full_finetuning: bool = False
    recipe_stage: BlockStage | None = None

    def __post_init__(self) -> None:
        _ = self.stage  # UserError for what does not go together, before anything is measured

    @classmethod
    def from_recipe(
        cls,
        name: str,
        stage: Stage,
        size: tuple[int, int],
        edits: bool,
        regularization_images: bool = False,
        cap_gib: float | None = None,
    ) -> TrainingCase:
        """Take a stage as a recipe has it, on images of one size; UserError unless it trains blocks."""
        if not isinstance(stage, BlockStage) or (stage.lora is None and name not in TARGETS):
            what = f"of whole components, the transformers are measured, not {name}"
            raise UserError(what, found="no lora section", fix="recipes/ar_lora.yaml")
        settings: dict[str, Any] = {key: getattr(stage, key) for key in FROM_STAGE}
        settings |= {key: getattr(stage.lora, key) for key in FROM_LORA} if stage.lora is not None else {}
        return cls(
            name,
            *size,
            batch=stage.global_batch_size,
            pack=getattr(stage, "pack", False),
            cap_gib=cap_gib,
            edits=edits,
            regularization_images=regularization_images and stage.regularization_weight > 0,
            full_finetuning=stage.lora is None,
            recipe_stage=stage,
            **settings,
        )

    @property
    def stage(self) -> BlockStage:
        """Return the stage as a recipe would have it."""
        if self.recipe_stage is not None:
            return self.recipe_stage
        values: dict[str, Any] = {
            "lora": None
            if self.full_finetuning
            else {"rank": self.rank, "targets": TARGETS[self.name], "base": self.base, "offload": self.offload},
            "steps": 10**6,
            "global_batch_size": self.batch,
            "learning_rate": 1e-4,
            "gradient_checkpointing": self.gradient_checkpointing,
            "compile": self.compile,
        }
        if self.pack:  # which decoders do not know
            values["pack"] = True
        try:
            stage = STAGES[self.name].model_validate(values)
        except ValidationError as error:
            raise UserError("; ".join(problem["msg"] for problem in error.errors()), found=self.columns) from error
        assert isinstance(stage, BlockStage)
        return stage

    @property
    def lora(self) -> Lora | None:
        """Return the adapter of the stage; None where all weights learn."""
        return self.stage.lora

    @property
    def model(self) -> tuple[Any, ...]:
        """Say what cases have in common that can use one model after the other."""
        return self.name, self.lora, self.compile, self.cap_gib

    @property
    def columns(self) -> dict[str, Any]:
        """Return the case as columns of its row."""
        stage = self.recipe_stage
        return {
            "stage": self.name,
            "size": f"{self.width}x{self.height}",
            **{key: getattr(self, key) for key in COLUMNS},
            "steps": stage.steps if stage else None,
            "regularization_weight": stage.regularization_weight if stage else 0.0,
            "regularization_images": self.regularization_images,
        }


class NoiseDataset:
    """`count` images of noise with one caption.

    With `edits` as many more follow them, which are their condition images, and with `regularization_images` as many
    again.
    """

    keys: list[str] | None = None
    text_keys: list[str] | None = None

    def __init__(
        self, count: int, size: tuple[int, int], edits: bool = False, regularization_images: bool = False
    ) -> None:
        self.size = size
        total = count * (1 + edits + regularization_images)
        self.captions, self.sizes = [CAPTION] * total, [size] * total
        self.texts: list[tuple[str, ...] | None] = [None] * total
        self.rejected: dict[int, int] = {}
        self.same_image: dict[int, int] = {}
        self.condition_images: dict[int, tuple[int, ...]] = (
            {index: (index + count,) for index in range(count)} if edits else {}
        )
        self.repeats = [1] * count + [0] * (total - count)
        self.regularization = list(range(count * (1 + edits), total))

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Return B 3 H W of noise in [-1, 1], decided by the first index."""
        generator = torch.Generator(device).manual_seed(int(indices[0]))
        return 2 * torch.rand(len(indices), 3, *self.size, generator=generator, device=device) - 1

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """Return B 1 H W: text in the upper half, for recipes that weigh it."""
        mask = torch.zeros(len(indices), 1, *self.size, device=device)
        mask[:, :, : self.size[0] // 2] = 1
        return mask


def measure_cases(
    cases: Iterable[TrainingCase],
    build: Callable[[torch.dtype], HybridModel],
    device: torch.device,
    steps: int,
    seconds: float = math.inf,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Iterator[dict[str, Any]]:
    """Yield a row per case, in their order, neighbours on one model if they can.

    `build` makes a model with weights of a type. A case that fails is a row with its `error`, as is one that would
    begin after `seconds`. Of several processes, which share each step, one that fails ends all: UserError.
    """
    cases = list(cases)
    for case in cases:
        _check_sharing(case, group)
        if group.sharded:
            fsdp.check({case.name: case.stage})
    deadline = time.monotonic() + seconds
    # Without a model, for which all memory may be needed.
    rates_of = functools.cache(lambda dtype: measure_rates(device, dtype))
    for _, neighbours in itertools.groupby(cases, lambda case: case.model):
        same_model = list(neighbours)
        dtype = quantization.dtype(same_model[0].lora, device)
        reset_peak_memory(device)  # the model before has left
        measured = dtype_for(device) if same_model[0].full_finetuning else dtype
        measure = partial(_measure_on_one_model, same_model, partial(build, dtype), device, steps)
        yield from measure(rates_of(measured), deadline, group)


def _check_sharing(case: TrainingCase, group: ProcessGroup) -> None:
    """Raise UserError when processes cannot share one step; without a recipe, options stand in place of its keys."""
    try:
        distributed.check({case.name: case.stage}, group)
    except UserError as error:
        if case.recipe_stage is not None:
            raise
        batch = -(-case.batch // group.world_size) * group.world_size
        fix = "leave out --pack" if case.pack else f"--batch {batch}"
        raise UserError(error.what, found=f"--batch {case.batch}", fix=fix) from error


def _measure_on_one_model(
    cases: Sequence[TrainingCase],
    build: Callable[[], HybridModel],
    device: torch.device,
    steps: int,
    rates: DeviceRates,
    deadline: float,
    group: ProcessGroup,
) -> Iterator[dict[str, Any]]:
    adapted = None
    with memory_cap(device, cases[0].cap_gib):
        for case in cases:
            started = time.monotonic()
            row: dict[str, Any] = {"error": "no time left"}
            try:
                if all(group.gather_objects(started < deadline)):
                    if case.lora is not None:
                        quantization.check(case.name, case.lora, device)
                    adapted = adapted or BenchmarkModel(build(), case, group)
                    row = adapted.measure(case, steps, rates)
            except Exception as error:  # which must not end the rows that come
                if group.world_size > 1:  # the others wait for this one's part of the step
                    found = f"{type(error).__name__}: {first_line(error)}"
                    raise UserError("a setting failed in one of several processes", found=found) from error
                row = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            shared = {"processes": group.world_size, "sharded": group.sharded}
            yield {**case.columns, **shared, **row, "seconds": round(time.monotonic() - started, 1)}


class BenchmarkModel:
    """A model with the base and the adapters of the cases that share it, in shards if those of the group are."""

    def __init__(self, hybrid: HybridModel, case: TrainingCase, group: ProcessGroup) -> None:
        self.hybrid, self.group = hybrid, group
        self.kind = stage_kinds()[case.name]
        self.transformer = getattr(hybrid, self.kind.transformer or case.name)
        if case.lora is None:
            self.transformer.requires_grad_(True)
        else:
            quantize_and_offload(self.transformer, case.lora, hybrid.device)
            lora.inject(getattr(hybrid, case.name), case.lora)
        if group.sharded:
            fsdp.shard(self.transformer, hybrid.device, group, edits=True)

    def measure(self, case: TrainingCase, steps: int, rates: DeviceRates) -> dict[str, Any]:
        """Time the first step, which may compile, and the median of the `steps` after it, in seconds.

        Of several processes the slowest counts, and of memory the most that one of them has had.
        """
        device, clock = self.hybrid.device, Clock(self.hybrid.device)
        loop = self._loop(case)
        seconds = []
        for number in range(steps + 1):
            if number == 1:
                reset_peak_memory(device)
            started = clock.now()
            loop.take_step()
            seconds.append(clock.now() - started)
        seconds = [max(of_step) for of_step in zip(*self.group.gather_objects(seconds), strict=True)]
        tokens, median = sequence_tokens(self.hybrid, case), statistics.median(seconds[1:])
        flops = case.batch * training_flops(self.hybrid, case, tokens)
        lower_bound = flops / (rates.flops * self.group.world_size)
        return {
            "first_step": seconds[0],
            "step": median,
            "spread": [min(seconds[1:]), max(seconds[1:])],
            "samples_per_second": case.batch / median,
            "tokens_per_second": case.batch * tokens / median,
            "lower_bound": lower_bound,
            "share_of_lower_bound": lower_bound / median,
            "peak_memory_gib": max(self.group.gather_objects(peak_memory_gib(device))),
            "tflops": rates.flops / 1e12,
        }

    def _loop(self, case: TrainingCase) -> Loop:
        """Return the loop of a case on images of its own, with a fresh optimizer."""
        device = self.hybrid.device
        getattr(self.hybrid, case.name).zero_grad(set_to_none=True)  # a failed step leaves some
        checkpoint_gradients(self.transformer, case.gradient_checkpointing)
        images = NoiseDataset(case.batch, (case.height, case.width), case.edits, case.regularization_images)
        datasets = images, NoiseDataset(1, images.size)
        objective = self.kind.build(self.hybrid, datasets, case.stage, FeatureCache(device))
        if case.compile:
            objective.compile()
        objective.trained.train()
        batches = data.Batches(data.buckets(images), case.batch, 0)
        return Loop(objective, batches, case.stage, StageContext(Path(), case.name, 0, device, self.group))
