"""Fixtures that several test folders share."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

# Triton looks at this when it is imported, which torch.compile does, too: its kernels run on a CPU, slowly.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole toy GLM-Image folder written by the stock classes. Read only: copy it (`tiny_copy`) to change it."""
    import tiny_checkpoint

    return tiny_checkpoint.build(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has read or built is not there for another, nor in the cache of whoever runs the tests."""
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
