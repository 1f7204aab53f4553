"""Times and rates of the device at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from glmkit.models import hardware

CPU = torch.device("cpu")


def test_median_leaves_out_the_first_calls() -> None:
    calls: list[int] = []
    assert hardware.median_seconds(lambda: calls.append(1), CPU, repeats=3) >= 0
    assert len(calls) == 5


def test_stages_add_up() -> None:
    clock = hardware.Clock(CPU)
    with clock.stage("total"):
        for _ in range(2):
            with clock.stage("part"):
                pass
    assert 0 <= clock.seconds["part"] <= clock.seconds["total"]


def test_a_cpu_has_no_cap_and_a_peak() -> None:
    with hardware.memory_cap(CPU, 1e-9):
        torch.zeros(1)
    assert hardware.peak_memory_gib(CPU) == hardware.host_peak_gib() > 0.01


def test_the_peak_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither /proc nor `resource`, whose import ends here."""
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=3 * 2**30))
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: process))
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(hardware, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(hardware, "Path", lambda _: Path("no such file"))
    assert hardware.host_peak_gib() == 3
