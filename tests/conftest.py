"""Fixtures that several test folders share."""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Triton looks at this when it is imported, which torch.compile does, too: its kernels run on a CPU, slowly.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def sums_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter add one product after another to a sum, the same way for every tile and on every CPU.

    Its own products are NumPy's, whose order of sums depends on the CPU and on the shape of a tile.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles for the GPU here")
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def create_dot(_: Any, a_MK: Any, b_KN: Any, sums_MN: Any, *_how: Any) -> Any:
        total = sums_MN.data
        for column, row in zip(a_MK.data.T.astype(total.dtype), b_KN.data.astype(total.dtype), strict=True):
            total = total + column[:, None] * row
        return interpreter.TensorHandle(total, sums_MN.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def uninstall(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make packages appear as not installed, by the names under which pip knows them."""
    real, gone = importlib.metadata.version, set[str]()

    def version(name: str) -> str:
        if name in gone:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return lambda *names: gone.update(names)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole toy GLM-Image folder by diffusers and transformers. Read only: copy it (`tiny_copy`) to change it."""
    import tiny_checkpoint

    return tiny_checkpoint.build(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that several tests share do not see what the user's cache holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has read or built is not there for another, nor in the cache of the user who runs the tests."""
    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def posters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ (4 of 64x64, 2 of 96x64) and validation/ (3 of 64x64), each with metadata.jsonl."""
    from glmkit.posters import grammar, render

    folder = tmp_path_factory.mktemp("posters")
    for split, sizes in (("train", [(64, 64)] * 4 + [(96, 64)] * 2), ("validation", [(64, 64)] * 3)):
        (folder / split).mkdir()
        rows = []
        for number, (height, width) in enumerate(sizes):
            rng = random.Random(f"{split} {number}")
            scene = grammar.sample_scene(rng, height=height, width=width)
            render.render(scene).save(folder / split / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "text": grammar.caption(scene, rng)})
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
