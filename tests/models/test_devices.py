"""Which devices are taken, in which type they compute, and where Triton and torch.compile can run."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator

import pytest
import torch

from glmkit.errors import UserError, note_once
from glmkit.generation.loading import dtype_named, load_model
from glmkit.generation.options import InferenceOptions
from glmkit.models.devices import autocast, dtype_for, pick_device, triton_runs

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def turing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU of compute capability 7.5, the last without bfloat16."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    note_once.cache_clear()
    yield
    note_once.cache_clear()


@pytest.mark.parametrize("name", ["mps", "mps:0", "xpu", "meta"])
def test_a_device_that_is_neither_cpu_nor_cuda_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device {name} is not supported: .*reference.*\n.*\n.*--device cpu"):
        pick_device(name)


def test_auto_is_a_cpu_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == CPU


@pytest.mark.usefixtures("turing")
def test_a_gpu_without_bfloat16_computes_in_float32_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert dtype_named("auto", GPU) == dtype_for("cuda:0") == torch.float32
    assert capsys.readouterr().err == "Tesla T4 has no bfloat16: computing in float32, which takes twice the memory\n"
    assert dtype_named("float32", GPU) == torch.float32
    with autocast(GPU):
        assert not torch.is_autocast_enabled("cuda")


@pytest.mark.usefixtures("turing")
def test_bfloat16_is_refused_where_there_is_none() -> None:
    with pytest.raises(UserError, match=r"(?s)--dtype bfloat16 .*Tesla T4, compute capability 7\.5.*--dtype float32"):
        dtype_named("bfloat16", GPU)
    assert dtype_named("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)])
def test_bfloat16_from_ampere_on(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert dtype_named("auto", GPU) == dtype_named("bfloat16", GPU) == torch.bfloat16
    assert capsys.readouterr().err == ""


def test_float16_is_refused_with_a_reason() -> None:
    with pytest.raises(UserError, match=r"(?s)exceed its range.*--dtype auto"):
        dtype_named("float16", CPU)
    with pytest.raises(UserError, match="unknown dtype 'int8'"):
        dtype_named("int8", CPU)


@pytest.mark.usefixtures("turing")
def test_auto_compiles_where_triton_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not InferenceOptions().compiles_on(GPU)
    assert not InferenceOptions().compiles_on(CPU)
    assert not InferenceOptions("off").compiles_on(GPU)
    with pytest.raises(UserError, match=r"(?s)--compile blocks needs Triton.*Tesla T4.*--compile off"):
        InferenceOptions("blocks").compiles_on(GPU)


@pytest.mark.parametrize(("platform", "compiler"), [("win32", "cl"), ("darwin", "clang[+][+]"), ("linux", "g[+][+]")])
def test_compiling_on_a_cpu_needs_a_compiler(platform: str, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=f"(?s)--compile blocks needs a C.. compiler.*no {compiler}.*--compile off"):
        load_model("nano", CPU, options=InferenceOptions("blocks"))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert InferenceOptions("blocks").compiles_on(CPU)


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
