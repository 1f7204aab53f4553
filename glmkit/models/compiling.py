"""torch.compile where the same small function runs many times per image."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

MAX_SHAPES = 64  # compiled versions of one function; torch's own limit is 8, and what exceeds it runs uncompiled


@cache
def compiled(function: Callable[..., Any], dynamic: bool = False) -> Callable[..., Any]:
    """Return `function` compiled for each shape that it meets, or once for all of them (`dynamic`).

    Methods of a layer are compiled once for all layers.
    """
    allow_shapes()
    return torch.compile(function, dynamic=dynamic, fullgraph=True)


def allow_shapes() -> None:
    """Let whatever is compiled in this process have MAX_SHAPES versions."""
    torch._dynamo.config.recompile_limit = max(MAX_SHAPES, torch._dynamo.config.recompile_limit)
