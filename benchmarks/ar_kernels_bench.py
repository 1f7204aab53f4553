"""What `ar_kernels.py` measures with: sizes of a model, times of CUDA graphs, and where the measurements go."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmkit.files import append_jsonl
from glmkit.models.autoregressive import gpu
from glmkit.models.autoregressive.config import AutoregressiveConfig
from glmkit.models.autoregressive.gpu import ProductTile, StepPlan
from glmkit.models.checkpoint import published

PRODUCTS = ("qkv", "o", "gate_up", "down", "head")


@dataclass(frozen=True)
class Scale:
    """What is measured; at toy size the same code in a minute of a CPU."""

    config: AutoregressiveConfig
    batches: tuple[int, ...] = (1, 16, 64)
    keys: tuple[int, ...] = (300, 1300, 2300)
    copied: int = 2**30
    calls: int = 12  # of one graph
    replays: int = 7


def full() -> Scale:
    return Scale(AutoregressiveConfig.from_dict(published.VISION_LANGUAGE_ENCODER))


def toy() -> Scale:
    small: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    small |= {
        "num_attention_heads": 4,
        "head_dim": 32,
        "mrope_section": (2, 3, 3),
        "vision_vocab_size": 40,
        "image_start_token_id": 32,
    }
    config = replace(full().config, vocab_size=200, **small)
    return Scale(config, (1, 3), (5,), 2**16, calls=1, replays=1)


@dataclass
class Bench:
    """Where it runs, what was found, and where the measurements go."""

    scale: Scale
    device: torch.device
    dtype: torch.dtype
    out: Path
    seconds: float
    began: float = field(default_factory=time.perf_counter)
    tiles: dict[tuple[str, int], ProductTile] = field(default_factory=dict)
    best: dict[int, StepPlan] = field(default_factory=dict)
    pool: ProcessPoolExecutor | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def note(self, show: bool = True, **fields: Any) -> None:
        append_jsonl(self.out / "ar_kernels.jsonl", fields)
        cells = (
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in fields.items()
        )
        if show:
            print("; ".join(cells), flush=True)

    def late(self, share: float = 1.0) -> bool:
        """Whether this share of the time is over."""
        return time.perf_counter() - self.began > share * self.seconds

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=self.dtype) * scale

    def plan(self, batch: int) -> StepPlan:
        """The code's plan for such a batch, with what this run has found."""
        base = gpu.plan_for(batch, self.device)
        found: dict[str, Any] = {name: self.tiles[name, batch] for name in PRODUCTS if (name, batch) in self.tiles}
        return replace(base, **found)

    def milliseconds(self, calls: Sequence[Callable[[], Any]]) -> float:
        """The median time of all `calls` one after another, as one CUDA graph."""
        began = time.perf_counter()
        for call in calls[:2] if self.on_gpu else calls:
            call()
        if not self.on_gpu:
            return 1e3 * (time.perf_counter() - began)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        times: list[float] = []
        for _ in range(self.scale.replays):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[0].record()
            graph.replay()
            marks[1].record()
            marks[1].synchronize()
            times.append(marks[0].elapsed_time(marks[1]))
        return statistics.median(times[1:] or times)

    def microseconds(self, call: Callable[[int], Any], copies: int) -> float:
        """Of one `call(number)`; the calls go around so many copies."""
        count = max(self.scale.calls, copies)
        return 1e3 / count * self.milliseconds([partial(call, number % copies) for number in range(count)])


def shapes(config: AutoregressiveConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each product; of gate_up both halves."""
    width, size = config.hidden_size, config.head_dim
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    return {
        "qkv": ((heads + 2 * key_heads) * size, width),
        "o": (width, heads * size),
        "gate_up": (2 * config.intermediate_size, width),
        "down": (width, config.intermediate_size),
        "head": (config.vision_vocab_size, width),
    }
