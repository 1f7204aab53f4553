"""Times and rates of the device at hand."""

from __future__ import annotations

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
