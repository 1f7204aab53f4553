"""Compile Triton's kernels for a GPU that is not touched, or not there: ahead by many processes, and in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class NoDevice:
    """What Triton asks its driver when it compiles for a GPU that it does not touch."""

    def __init__(self, capability: tuple[int, int]) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def compile_only(capability: tuple[int, int]) -> None:
    """From now on launches in this process compile for such a GPU and run nothing."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    run = JITFunction.run
    driver.set_active(NoDevice(capability))
    JITFunction.run = lambda self, *args, **kwargs: run(self, *args, **{**kwargs, "warmup": True})


def tried_to(job: Callable[[], Any]) -> str | None:
    """What went wrong, if anything did."""
    try:
        job()
    except Exception as problem:
        return f"{job}: {problem}"[-500:]
    return None


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype)  # nothing writes to it, so it takes no memory
