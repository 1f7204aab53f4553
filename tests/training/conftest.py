"""Small posters on disk that the tests of training share."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from glmkit.posters import grammar, render


@pytest.fixture(scope="session")
def posters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ (4 of 64x64, 2 of 96x64) and validation/ (3 of 64x64), each with metadata.jsonl."""
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
