"""Losses and samples while training: what TensorBoard and Weights & Biases are given."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glmkit.training import trackers
from glmkit.training.samples import Sample

LINES: list[dict[str, Any]] = [
    {"step": 0, "validation": {"loss": 2.0, "preview": 1.5}},
    {"step": 20, "loss": 1.0, "large": 0.5, "time": 1.0},
]
EXPECTED = [
    (0, {"validation/loss": 2.0, "validation/preview": 1.5}),
    (20, {"train/loss": 1.0, "train/large": 0.5}),
]
PROMPTS = ('a "red" poster | <b>\n---', "another")


def samples(step: int) -> list[Sample]:
    """Two images per step, each of one color."""
    return [Sample(prompt, Image.new("RGB", (8, 4), (step, 10 * n, 0))) for n, prompt in enumerate(PROMPTS)]


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in names or None)


def watch(tracker: trackers.Tracker) -> None:
    """Show a tracker what the loop shows it."""
    for line in LINES:
        tracker.log(line)
        tracker.log_samples(line["step"], samples(line["step"]))


def test_tensorboard_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[int, dict[str, float]] = {}
    images: dict[tuple[str, int], tuple[int, ...]] = {}
    texts: dict[str, str] = {}
    folders: list[str] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            folders.append(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.setdefault(step, {})[name] = value

        def add_text(self, name: str, text: str, _: int) -> None:
            texts[name] = text

        def add_image(self, name: str, pixels: np.ndarray, step: int, dataformats: str) -> None:
            assert dataformats == "HWC"
            images[name, step] = (*pixels.shape, *pixels[0, 0].tolist())

        def flush(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    installed(monkeypatch, "tensorboard")
    (tracker,) = trackers.trackers(tmp_path, "decoder", None)
    watch(tracker)
    assert list(written.items()) == EXPECTED
    assert images == {(f"samples/{n}", step): (4, 8, 3, step, 10 * n, 0) for step in (0, 20) for n in (0, 1)}
    assert texts == {f"samples/{n}/prompt": prompt for n, prompt in enumerate(PROMPTS)}
    assert folders == [str(tmp_path / "tensorboard" / "decoder")]
    installed(monkeypatch)
    assert trackers.trackers(tmp_path, "decoder", None) == []


def test_tensorboard_reads_its_events(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watch(trackers.trackers(tmp_path, "decoder", None)[0])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "decoder")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == [1.0]
    for number in (0, 1):
        shown = events.Images(f"samples/{number}")
        assert [event.step for event in shown] == [0, 20]
        for event in shown:
            pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
            assert pixels.shape == (4, 8, 3)
            assert pixels[0, 0].tolist() == [event.step, 10 * number, 0]
        (text,) = events.Tensors(f"samples/{number}/prompt/text_summary")
        assert text.tensor_proto.string_val[0].decode() == PROMPTS[number]


def test_wandb_where_a_recipe_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder and stage are the same run there, so that a resumed one goes on."""
    runs: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, Any]]] = []

    def init(**settings: Any) -> SimpleNamespace:
        runs.append(settings)
        return SimpleNamespace(log=lambda values, step: logged.append((step, values)))

    def record_image(image: Image.Image, caption: str) -> tuple[str, tuple[int, int], Any]:
        return caption, image.size, image.getpixel((0, 0))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=record_image))
    installed(monkeypatch, "wandb")
    for stage in ("decoder", "decoder", "vae"):
        (tracker,) = trackers.trackers(tmp_path, stage, "posters")
    watch(tracker)
    assert logged[::2] == EXPECTED
    assert logged[1::2] == [
        (step, {f"samples/{n}": (prompt, (8, 4), (step, 10 * n, 0)) for n, prompt in enumerate(PROMPTS)})
        for step in (0, 20)
    ]
    first, again, other = runs
    assert first == again
    assert first["project"] == "posters"
    assert first["resume"] == "allow"
    assert other["id"] != first["id"]


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself keeps the images of a run that is sent later."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = trackers.WeightsAndBiases(tmp_path, "decoder", "posters")
    watch(tracker)
    tracker.run.finish()
    kept = sorted(tmp_path.glob("wandb/offline-run-*/files/media/images/samples/*.png"))
    colors = {tuple(np.asarray(Image.open(path))[0, 0].tolist()) for path in kept}
    assert colors == {(step, 10 * n, 0) for step in (0, 20) for n in (0, 1)}
