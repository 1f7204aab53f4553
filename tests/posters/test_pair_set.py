"""The committed pairs are those that the module writes; condition and target differ in the frame alone."""

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
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edits")
    write_pairs(folder)
    return folder


@pytest.mark.parametrize("split", ["train", "validation"])
def test_pairs(written: Path, split: str) -> None:
    records = read_jsonl(SET / split / "metadata.jsonl")
    assert records == read_jsonl(written / split / "metadata.jsonl")
    for record in records:
        target, condition = (pixels(SET / split / record[key]) for key in ("file_name", "condition_image"))
        for key, committed in (("file_name", target), ("condition_image", condition)):
            assert np.array_equal(committed, pixels(written / split / record[key]))
        differs = (target != condition).any(axis=-1)
        assert differs[:8].all()
        assert not differs[FRAME:-FRAME, FRAME:-FRAME].any()
