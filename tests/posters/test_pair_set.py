"""The committed pairs are those that the module draws, and source and target differ in the frame alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glmkit.files import read_jsonl
from glmkit.posters.pair_set import write_pairs
from glmkit.posters.style_set import FRAME

SET = Path(__file__).parents[2] / "data" / "edits"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edits")
    write_pairs(folder)
    return folder


@pytest.mark.parametrize("split", ["train", "validation"])
def test_pairs(drawn: Path, split: str) -> None:
    rows = read_jsonl(SET / split / "metadata.jsonl")
    assert rows == read_jsonl(drawn / split / "metadata.jsonl")
    for row in rows:
        target, source = (pixels(SET / split / row[key]) for key in ("file_name", "condition_image"))
        for key, committed in (("file_name", target), ("condition_image", source)):
            assert np.array_equal(committed, pixels(drawn / split / row[key]))
        differs = (target != source).any(axis=-1)
        assert differs[:8].all() and not differs[FRAME:-FRAME, FRAME:-FRAME].any()
