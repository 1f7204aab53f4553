"""How fast a stage learns: the real objective and step of the loop, on random pictures, beside the floor.

The floor of a step is what its products cost at the rate that large products reach on the same device, measured in the
same run: forwards and back to the activations, of frozen weights no gradient; layers computed again count again.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmkit.config import STAGES, BlockStage, Lora
from glmkit.generation import flow, pipeline
from glmkit.generation.sequence import grids
from glmkit.generation.speed import Clock, decoder_flops, peak_gib, rates, reset_peak
from glmkit.models.hybrid import HybridModel
from glmkit.training import cache, data
from glmkit.training.finetune import objective_of
from glmkit.training.loop import Loop, Place
from glmkit.training.plan import BACKWARD_OF_ATTENTION

TARGETS = {
    "autoregressive": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
    "decoder": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
}
CAPTION = "A poster with the words 'HELLO' and 'WORLD' in large letters over a city by the sea."


@dataclass(frozen=True)
class Job:
    """One row: what is trained, on which pictures, and how its memory is spent."""

    name: str
    height: int
    width: int
    batch: int
    recompute_every: int = 0
    base: str = "auto"
    compile: bool = False
    rank: int = 16

    @property
    def stage(self) -> BlockStage:
        lora = Lora.model_validate({"rank": self.rank, "targets": TARGETS[self.name], "base": self.base})
        values = {"steps": 10**6, "batch_size": self.batch, "learning_rate": 1e-4, "compile": self.compile}
        kind = STAGES[self.name]
        stage = kind.model_validate({"method": "lora", "lora": lora, "recompute_every": self.recompute_every, **values})
        assert isinstance(stage, BlockStage)
        return stage


@dataclass(frozen=True)
class NoisePictures:
    """`count` pictures of noise with one caption."""

    count: int
    size: tuple[int, int]
    sources: dict[int, int] = field(default_factory=dict)
    preserved: list[int] = field(default_factory=list)
    keys: list[str] | None = None
    text_keys: list[str] | None = None

    @property
    def captions(self) -> list[str]:
        return [CAPTION] * self.count

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [self.size] * self.count

    @property
    def repeats(self) -> list[int]:
        return [1] * self.count

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        draw = torch.Generator(device).manual_seed(int(indices[0]))
        return 2 * torch.rand(len(indices), 3, *self.size, generator=draw, device=device) - 1

    def text_mask(self, indices: Sequence[int], device: torch.device) -> None:
        return None

    signs = text_mask


def measure(hybrid: HybridModel, job: Job, steps: int, scratch: Path) -> dict[str, Any]:
    """A row of the benchmark: seconds of the first step, which compiles, and the median of the `steps` after it."""
    device, stage = hybrid.device, job.stage
    reset_peak(device)
    pictures = NoisePictures(job.batch, (job.height, job.width))
    sets: Any = (pictures, NoisePictures(1, pictures.size))
    objective, _ = objective_of(job.name, stage, hybrid, sets, cache.Keeper(device))
    if stage.compile:
        objective.compile()
    objective.trained.train()
    batches = data.Batches(data.buckets(sets[0]), job.batch, 0)
    loop, clock = Loop(objective, batches, stage, Place(scratch, job.name, 0, device)), Clock(device)
    seconds = []
    for number in range(steps + 1):
        if number == 1:
            reset_peak(device)
        started = clock.now()
        loop.take_step()
        seconds.append(clock.now() - started)
    at, tokens = rates(device, hybrid.dtype), tokens_of(hybrid, job)
    floor = job.batch * operations(hybrid, job, tokens) / at.flops
    median = statistics.median(seconds[1:])
    return {
        "stage": job.name,
        "size": f"{job.width}x{job.height}",
        "batch": job.batch,
        "recompute_every": job.recompute_every,
        "base": job.base,
        "compile": job.compile,
        "first_step": seconds[0],
        "step": median,
        "spread": [min(seconds[1:]), max(seconds[1:])],
        "samples_per_second": job.batch / median,
        "tokens_per_second": job.batch * tokens / median,
        "floor": floor,
        "of_floor": floor / median,
        "peak_memory_gib": peak_gib(device),
        "tflops": at.flops / 1e12,
    }


def tokens_of(hybrid: HybridModel, job: Job) -> int:
    """Of one picture: all of the autoregressive sequence without padding; the decoder's image tokens."""
    if job.name == "decoder":
        return flow.sequence_length(job.height, job.width)
    (prompt,) = pipeline.prompt_tokenizer(hybrid.folder).text_to_image_batch([CAPTION], job.height, job.width)
    shape = grids(job.height, job.width)
    return len(prompt) + sum(rows * columns for rows, columns in (shape.preview, shape.large)) + 1


def operations(hybrid: HybridModel, job: Job, tokens: int) -> float:
    """Of one picture forwards and back through frozen weights, glyph tokens and adapters left out."""
    if job.name == "decoder":
        config = hybrid.decoder.config
        attention = config.num_layers * 4.0 * tokens**2 * config.width
        weights = decoder_flops(hybrid, tokens) - attention
    else:
        model = hybrid.autoregressive.config
        heads = (2 * model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
        a_layer = model.hidden_size * (heads + 3 * model.intermediate_size)
        weights = 2.0 * tokens * (model.num_hidden_layers * a_layer + model.hidden_size * model.vision_vocab_size)
        # Causal: half of all pairs.
        attention = model.num_hidden_layers * 2.0 * tokens**2 * model.num_attention_heads * model.head_dim
    again = (weights + attention) / job.recompute_every if job.recompute_every else 0.0
    return 2 * weights + (1 + BACKWARD_OF_ATTENTION) * attention + again
