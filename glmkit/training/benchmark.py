"""How fast a stage learns: the real objective and step of the loop, on random images, beside the floor.

The floor of a step is what its products cost at the rate that large products reach on the same device, measured in the
same run: forwards and back to the activations, of frozen weights no gradient; layers computed again count again.
A model is built once for all rows that differ only in their images and in what is computed again.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from glmkit.config import STAGES, BlockStage, Lora, Stage
from glmkit.errors import UserError
from glmkit.generation import flow_matching as flow
from glmkit.generation.benchmark import decoder_flops
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import grids
from glmkit.models.hardware import Clock, DeviceRates, measure_rates, memory_cap, peak_memory_gib, reset_peak_memory
from glmkit.models.hybrid import HybridModel
from glmkit.training import data, features, quantization
from glmkit.training.context import StageContext
from glmkit.training.loop import Loop
from glmkit.training.lora import inject
from glmkit.training.memory_tracker import BACKWARD_OF_ATTENTION
from glmkit.training.objectives import stage_kinds
from glmkit.training.stage import checkpoint_gradients, quantize_and_offload

TARGETS = {
    "autoregressive": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
    "decoder": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
}
CAPTION = "A poster with the words 'HELLO' and 'WORLD' in large letters over a city by the sea."


@dataclass(frozen=True)
class Job:
    """One row: what is trained, on which images, and how its memory is spent; `cap_gib` is all that a GPU gives.

    `edits`: every image has a condition image of its own. `regularization_images`: a stage with a regularization weight
    uses other images
    than those it learns. `asked` is the stage of a recipe that the job was made `of`.
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
    asked: BlockStage | None = None

    def __post_init__(self) -> None:
        _ = self.stage  # UserError for what does not go together, before anything is measured

    @classmethod
    def of(
        cls,
        name: str,
        asked: Stage,
        size: tuple[int, int],
        edits: bool,
        regularization_images: bool = False,
        cap_gib: float | None = None,
    ) -> Job:
        """A stage as a recipe has it, on images of one size; UserError when it trains no adapter."""
        lora = asked.lora
        if lora is None or not isinstance(asked, BlockStage):
            raise UserError(f"{name} trains whole parts", found="no lora section", fix="recipes/ar_lora.yaml")
        how: dict[str, Any] = {
            key: getattr(asked, key) for key in ("gradient_checkpointing", "accumulation_steps", "compile")
        }
        how |= {key: getattr(lora, key) for key in ("base", "offload", "rank")}
        how |= {"pack": getattr(asked, "pack", False), "cap_gib": cap_gib, "edits": edits, "asked": asked}
        how["regularization_images"] = regularization_images and asked.regularization_weight > 0
        return cls(name, *size, batch=asked.global_batch_size, **how)

    @property
    def stage(self) -> BlockStage:
        """As a recipe would have it."""
        if self.asked is not None:
            return self.asked
        lora = {"rank": self.rank, "targets": TARGETS[self.name], "base": self.base, "offload": self.offload}
        values: dict[str, Any] = {"steps": 10**6, "global_batch_size": self.batch, "learning_rate": 1e-4}
        packed = {"pack": True} if self.pack else {}  # which decoders do not know
        values |= {"gradient_checkpointing": self.gradient_checkpointing, "compile": self.compile, **packed}
        try:
            stage = STAGES[self.name].model_validate({"lora": lora, **values})
        except ValidationError as error:
            raise UserError("; ".join(problem["msg"] for problem in error.errors()), found=self.told) from error
        assert isinstance(stage, BlockStage)
        return stage

    @property
    def lora(self) -> Lora:
        lora = self.stage.lora
        assert lora is not None
        return lora

    @property
    def model(self) -> tuple[Any, ...]:
        """What jobs have in common that can use one model after the other."""
        return self.name, self.lora, self.compile, self.cap_gib

    @property
    def told(self) -> dict[str, Any]:
        """The job as columns of its row."""
        keys = (
            "batch",
            "accumulation_steps",
            "edits",
            "gradient_checkpointing",
            "base",
            "pack",
            "offload",
            "compile",
            "cap_gib",
        )
        steps, weight = (self.asked.steps, self.asked.regularization_weight) if self.asked else (None, 0.0)
        size = f"{self.width}x{self.height}"
        told = {"stage": self.name, "size": size, **{key: getattr(self, key) for key in keys}, "steps": steps}
        return told | {"regularization_weight": weight, "regularization_images": self.regularization_images}


@dataclass(frozen=True)
class NoiseImages:
    """`count` images of noise with one caption; with `edits` as many more behind them, which are their sources, and
    with `regularization_images` as many again, which are for regularization."""

    count: int
    size: tuple[int, int]
    edits: bool = False
    regularization_images: bool = False
    keys: list[str] | None = None
    text_keys: list[str] | None = None

    @property
    def _in_all(self) -> int:
        return self.count * (1 + self.edits + self.regularization_images)

    @property
    def regularization(self) -> list[int]:
        return list(range(self.count * (1 + self.edits), self._in_all))

    @property
    def condition_images(self) -> dict[int, int]:
        return {number: number + self.count for number in range(self.count)} if self.edits else {}

    @property
    def captions(self) -> list[str]:
        return [CAPTION] * self._in_all

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [self.size] * self._in_all

    @property
    def repeats(self) -> list[int]:
        return [1] * self.count + [0] * (self._in_all - self.count)

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        draw = torch.Generator(device).manual_seed(int(indices[0]))
        return 2 * torch.rand(len(indices), 3, *self.size, generator=draw, device=device) - 1

    def text_mask(self, indices: Sequence[int], device: torch.device) -> None:
        return None

    signs = text_mask


def rows(
    jobs: Iterable[Job],
    build: Callable[[torch.dtype], HybridModel],
    device: torch.device,
    steps: int,
    seconds: float = math.inf,
) -> Iterator[dict[str, Any]]:
    """A row a job, in their order, neighbours on one model if they can. `build` makes a model with frozen weights of a
    type. A job that fails is a row with its `error`, as is one that would begin after `seconds`.
    """
    ends = time.monotonic() + seconds
    # Without a model, for which all memory may be needed.
    reached = functools.cache(lambda dtype: measure_rates(device, dtype))
    for _, together in itertools.groupby(jobs, lambda job: job.model):
        same = list(together)
        dtype = quantization.dtype(same[0].lora, device)
        reset_peak_memory(device)  # the model before has left
        yield from _on_one_model(same, partial(build, dtype), device, steps, reached(dtype), ends)


def _on_one_model(
    jobs: Sequence[Job],
    build: Callable[[], HybridModel],
    device: torch.device,
    steps: int,
    at: DeviceRates,
    ends: float,
) -> Iterator[dict[str, Any]]:
    subject = None
    with memory_cap(device, jobs[0].cap_gib):
        for job in jobs:
            started = time.monotonic()
            row: dict[str, Any] = {"error": "no time left"}
            try:
                if started < ends:
                    quantization.check(job.name, job.lora, device)
                    subject = subject or Subject(build(), job)
                    row = subject.measure(job, steps, at)
            except Exception as error:  # which must not end the rows that come
                row = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            yield {**job.told, **row, "seconds": round(time.monotonic() - started, 1)}


class Subject:
    """A model whose transformer is held and adapted as the jobs ask that share it."""

    def __init__(self, hybrid: HybridModel, job: Job) -> None:
        self.hybrid = hybrid
        self.kind = stage_kinds()[job.name]
        self.transformer = getattr(hybrid, self.kind.transformer or job.name)
        quantize_and_offload(self.transformer, job.lora, hybrid.device)
        inject(getattr(hybrid, job.name), job.lora)

    def measure(self, job: Job, steps: int, at: DeviceRates) -> dict[str, Any]:
        """Seconds of the first step, which may compile, and the median of the `steps` after it."""
        device, clock = self.hybrid.device, Clock(self.hybrid.device)
        loop = self._loop(job)
        seconds = []
        for number in range(steps + 1):
            if number == 1:
                reset_peak_memory(device)
            started = clock.now()
            loop.take_step()
            seconds.append(clock.now() - started)
        tokens, median = tokens_of(self.hybrid, job), statistics.median(seconds[1:])
        floor = job.batch * operations(self.hybrid, job, tokens) / at.flops
        return {
            "first_step": seconds[0],
            "step": median,
            "spread": [min(seconds[1:]), max(seconds[1:])],
            "samples_per_second": job.batch / median,
            "tokens_per_second": job.batch * tokens / median,
            "lower_bound": floor,
            "share_of_lower_bound": floor / median,
            "peak_memory_gib": peak_memory_gib(device),
            "tflops": at.flops / 1e12,
        }

    def _loop(self, job: Job) -> Loop:
        """The loop of a job on images of its own, with a fresh optimizer."""
        device, stage = self.hybrid.device, job.stage
        getattr(self.hybrid, job.name).zero_grad(set_to_none=True)  # a step that failed leaves some
        checkpoint_gradients(self.transformer, job.gradient_checkpointing)
        images: Any = NoiseImages(job.batch, (job.height, job.width), job.edits, job.regularization_images)
        validation: Any = NoiseImages(1, images.size)
        objective = self.kind.build(self.hybrid, (images, validation), stage, features.FeatureCache(device))
        if job.compile:
            objective.compile()
        objective.trained.train()
        batches = data.Batches(data.buckets(images), job.batch, 0)
        return Loop(objective, batches, stage, StageContext(Path(), job.name, 0, device))


def tokens_of(hybrid: HybridModel, job: Job) -> int:
    """Of one image: all of the autoregressive sequence without padding; the decoder's image tokens, without those of
    a source."""
    if job.name != "autoregressive":
        return flow.sequence_length(job.height, job.width)
    tokenizer, shape = prompt_tokenizer(hybrid.folder), grids(job.height, job.width)
    if job.edits:
        source = torch.zeros(shape.large, dtype=torch.long)
        return len(tokenizer.edit(CAPTION, [source], job.height, job.width)) + source.numel() + 1
    prompt = tokenizer.text_to_image(CAPTION, job.height, job.width)
    return len(prompt) + sum(rows * columns for rows, columns in (shape.preview, shape.large)) + 1


def operations(hybrid: HybridModel, job: Job, tokens: int) -> float:
    """Of one image forwards and back through frozen weights, glyph tokens and adapters left out; where the stage
    preserves, with the frozen model's look at it, or with an image that it is reminded of."""
    if job.name != "autoregressive":
        config = hybrid.decoder.config
        attention = config.num_layers * 4.0 * tokens**2 * config.width
        weights = decoder_flops(hybrid, tokens) - attention
        if job.edits:  # the source goes through all layers, too, and the image reads both
            weights, attention = 2 * weights, 3 * attention
    else:
        model = hybrid.autoregressive.config
        heads = (2 * model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
        a_layer = model.hidden_size * (heads + 3 * model.intermediate_size)
        weights = 2.0 * tokens * (model.num_hidden_layers * a_layer + model.hidden_size * model.vision_vocab_size)
        # Causal: half of all pairs.
        attention = model.num_hidden_layers * 2.0 * tokens**2 * model.num_attention_heads * model.head_dim
    forward = weights + attention
    again = forward / job.gradient_checkpointing if job.gradient_checkpointing else 0.0
    learnt = 2 * weights + (1 + BACKWARD_OF_ATTENTION) * attention + again
    if job.regularization_images:
        reminder = replace(job, edits=False, regularization_images=False)  # which the frozen model looks at, too
        return learnt + operations(hybrid, reminder, tokens_of(hybrid, reminder))
    return learnt + (forward if job.stage.regularization_weight else 0.0)
