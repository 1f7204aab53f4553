"""Where and in what precision a model runs."""

from __future__ import annotations

import importlib.util

import torch

from glmkit.errors import UserError

AMPERE = (8, 0)  # compute capability
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """Return the device called `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:1`; UserError without it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}", fix="--device auto, cpu or cuda") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise UserError(
            f"device {name} is not available", found=f"{torch.cuda.device_count()} GPUs", fix="--device cpu"
        )
    return device


def dtype_for(device: str | torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU, as the public checkpoint is stored; float32 on a CPU, where bfloat16 is slower."""
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32


def triton_runs(device: torch.device) -> bool:
    """Return whether Triton's kernels run here: it knows GPUs from Ampere on, and needs a C compiler."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < AMPERE:
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except Exception:  # no compiler, no headers, no libcuda: what is missing shows in many ways
        return False
    return True
