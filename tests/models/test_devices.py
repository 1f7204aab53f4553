"""Where Triton's kernels can run."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from glmkit.models.devices import triton_runs


def test_triton_runs_where_it_can_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on a CPU, nor on a GPU before Ampere, nor where it or a compiler is missing."""
    runtime = pytest.importorskip("triton.runtime")

    class Working:
        class active:
            @staticmethod
            def get_current_target() -> str:
                return "cuda:90"

    class Broken:
        @property
        def active(self) -> None:
            raise RuntimeError("no C compiler")

    gpu = torch.device("cuda")
    assert not triton_runs(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(runtime, "driver", Working())
    assert triton_runs(gpu)
    monkeypatch.setattr(runtime, "driver", Broken())
    assert not triton_runs(gpu)
    monkeypatch.setattr(runtime, "driver", Working())
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda _: None)
        assert not triton_runs(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not triton_runs(gpu)
