"""Losses while training: what TensorBoard and Weights & Biases are given."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmkit.training import trackers

ROWS: list[dict[str, Any]] = [
    {"step": 0, "validation": {"loss": 2.0, "preview": 1.5}},
    {"step": 20, "loss": 1.0, "large": 0.5, "time": 1.0},
]
EXPECTED = [
    (0, {"validation/loss": 2.0, "validation/preview": 1.5}),
    (20, {"train/loss": 1.0, "train/large": 0.5}),
]


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in names or None)


def test_tensorboard_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[int, dict[str, float]] = {}
    folders: list[str] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            folders.append(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.setdefault(step, {})[name] = value

        def flush(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    installed(monkeypatch, "tensorboard")
    (track,) = trackers.trackers(tmp_path, "decoder", None)
    for row in ROWS:
        track(row)
    assert list(written.items()) == EXPECTED
    assert folders == [str(tmp_path / "tensorboard" / "decoder")]
    installed(monkeypatch)
    assert trackers.trackers(tmp_path, "decoder", None) == []


def test_wandb_where_a_recipe_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder and stage are the same run there, so that a resumed one goes on."""
    runs: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, float]]] = []

    def init(**settings: Any) -> SimpleNamespace:
        runs.append(settings)
        return SimpleNamespace(log=lambda values, step: logged.append((step, values)))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    installed(monkeypatch, "wandb")
    for stage in ("decoder", "decoder", "vae"):
        (track,) = trackers.trackers(tmp_path, stage, "posters")
    for row in ROWS:
        track(row)
    assert logged == EXPECTED
    first, again, other = runs
    assert first == again
    assert first["project"] == "posters"
    assert first["resume"] == "allow"
    assert other["id"] != first["id"]
