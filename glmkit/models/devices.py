"""Where and in what precision a model runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from contextvars import ContextVar

import torch

from glmkit.errors import UserError, note_once

AMPERE = (8, 0)  # compute capability
HOPPER = 9  # the major compute capability for which plans of kernels were measured
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """Return the device called `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:1`; UserError without it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}", fix="--device auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(
            f"device {name} is not supported: images are tested against the reference on CPUs and CUDA GPUs only",
            found=name,
            fix="--device cpu",
        )
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise UserError(
            f"device {name} is not available", found=f"{torch.cuda.device_count()} GPUs", fix="--device cpu"
        )
    return device


def dtype_for(device: str | torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU, as the public checkpoint is stored; float32 on a CPU, where bfloat16 is slower.

    A GPU without bfloat16 gets float32, and stderr says so once.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return torch.float32
    if has_bfloat16(device):
        return torch.bfloat16
    name = torch.cuda.get_device_name(device)
    note_once(f"{name} has no bfloat16: computing in float32, which takes twice the memory")
    return torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16: GPUs do from Ampere on; before, torch emulates it."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= AMPERE


def check_bfloat16(what: str, device: torch.device, fix: str) -> None:
    """Raise UserError when the user asks by `what` for bfloat16 on a GPU that has none."""
    if not has_bfloat16(device):
        raise UserError(
            f"{what} needs a GPU with bfloat16",
            found=f"{torch.cuda.get_device_name(device)}, compute capability "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}, less than 8.0",
            fix=fix,
        )


ALWAYS_FLOAT32 = ContextVar("always_float32", default=False)


def autocast(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where a model does (`dtype_for`), and elsewhere in float32, while the block runs."""
    in_bfloat16 = dtype_for(device) == torch.bfloat16 and not ALWAYS_FLOAT32.get()
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16)


def check_compile(what: str, device: torch.device, fix: str) -> None:
    """Raise UserError when torch.compile, asked for by `what`, lacks Triton on a GPU, or on a CPU a C++ compiler."""
    if device.type == "cuda":
        if not triton_runs(device):
            gpu = torch.cuda.get_device_name(device)
            raise UserError(f"{what} needs Triton, a C compiler and a GPU from Ampere on", found=gpu, fix=fix)
        return
    # As torch chooses it.
    compiler = os.environ.get("CXX", {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++"))
    if shutil.which(compiler) is None:
        raise UserError(f"{what} needs a C++ compiler", found=f"no {compiler}", fix=fix)


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
