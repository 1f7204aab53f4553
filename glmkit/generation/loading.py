"""A model made ready to draw: adapters merged, projections fused, compiled or not, all parts at once or one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from glmkit.distributed.process_group import ProcessGroup
from glmkit.generation.options import Effort
from glmkit.models.checkpoint.adapters import Adapter, check_adapter, merge_adapter
from glmkit.models.devices import pick_device
from glmkit.models.hybrid import HybridModel


@dataclass(frozen=True)
class Speed:
    """What time and memory are traded for. `compile_blocks` costs time once, seconds where kernels of our
    own run and else a minute, and then saves some at every step; `low_memory` keeps one part of the model on the
    device."""

    compile_blocks: bool = False
    low_memory: bool = False

    @classmethod
    def of(cls, effort: Effort, device: torch.device) -> Speed:
        """ "auto" compiles on a GPU, where an image takes long enough."""
        wanted = device.type == "cuda" if effort.compile == "auto" else effort.compile == "blocks"
        return cls(wanted, effort.memory == "low")


def own_device(name: str) -> torch.device:
    """The device called `name`; of several processes on one machine, each takes its own GPU."""
    device, group = pick_device(name), ProcessGroup.from_environment()
    return torch.device("cuda", group.local_rank) if device.type == "cuda" and group.world_size > 1 else device


def load_for_drawing(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    name: str,
    adapters: Sequence[str] = (),
    parts: Iterable[str] = (),
    speed: Speed | None = None,
) -> HybridModel:
    """The model of a folder with `adapters` (`DIR` or `DIR:WEIGHT`) merged; `parts` are loaded now, so that a broken
    file shows at once.

    UserError before anything is loaded when an adapter does not fit.
    """
    speed = speed or Speed()
    added = [Adapter.parse(adapter) for adapter in adapters]
    for adapter in added:
        check_adapter(folder, adapter.folder)
    hybrid = HybridModel(folder, device, dtype, name)
    hybrid.adapters, hybrid.low_memory = tuple(adapters), speed.low_memory

    def finish(part: str, module: nn.Module) -> nn.Module:
        for adapter in added:
            module = merge_adapter(module, part, adapter)
        return module

    hybrid.on_load = finish
    hybrid.optimize_for_inference(speed.compile_blocks)
    for part in () if speed.low_memory else parts:
        getattr(hybrid, part)
    return hybrid
