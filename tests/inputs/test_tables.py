"""Rows of parquet files as a stream, and what a cell may hold."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.inputs import tables


def test_rows_from_any_row_on(tmp_path: Path) -> None:
    """Over the borders of row groups, with the columns that are asked for."""
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"n": list(range(50)), "other": ["x"] * 50}), file, row_group_size=20)
    assert tables.parquet_columns(file) == ["n", "other"]
    for start in (0, 19, 20, 45):
        assert list(tables.parquet_rows(file, ["n"], start)) == [(number, {"n": number}) for number in range(start, 50)]


def test_a_file_that_is_cut_or_gone(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    with pytest.raises(UserError, match="does not exist"):
        tables.parquet_columns(file)
    file.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a whole parquet file"):
        list(tables.parquet_rows(file, ["n"]))


def test_images_in_cells(tmp_path: Path) -> None:
    assert tables.image_in_cell(b"png", tmp_path) == b"png"
    assert tables.image_in_cell({"bytes": None, "path": "a.png"}, tmp_path) == tmp_path / "a.png"
    assert tables.image_in_cell(None, tmp_path) is None
    with pytest.raises(TypeError):
        tables.image_in_cell(3, tmp_path)


@pytest.mark.parametrize("folder", ["C:/images", r"D:\a/b", "C:/x:train", "none", "a/b"])
def test_a_folder_that_is_gone_is_no_dataset_of_the_hub(folder: str) -> None:
    """Drives of Windows have a colon, as the split of a data set has."""
    with pytest.raises(UserError, match="does not exist"):
        tables.read_captioned_images(folder, Columns())


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def download(*names: str) -> list[Path]:
        asked.append(names)
        return []

    monkeypatch.setattr(tables, "_download", download)
    with pytest.raises(UserError, match="no images in"):
        tables.read_captioned_images("owner/some.name-1:train", Columns())
    assert asked == [("owner/some.name-1", "train")]
