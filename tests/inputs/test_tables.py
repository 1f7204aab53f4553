"""Rows of parquet files as a stream, and what a cell may hold."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

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


def test_an_image_of_any_row_is_read_from_its_row_group(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    cells = [{"bytes": b"%d" % number, "path": None} for number in range(50)]
    pyarrow.parquet.write_table(pyarrow.table({"image": cells}), file, row_group_size=20)
    changed = file.stat().st_mtime_ns
    for number in (0, 49, 19, 20, 45):
        assert tables.TableImage(file, changed, number, "image").read() == b"%d" % number
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"other"]}), file)
    assert tables.TableImage(file, changed + 1, 0, "image").read() == b"other", "a file in its place is another one"


def test_few_row_groups_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_GROUP_BYTES", 30_000)
    groups = tables._RowGroups()
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": [bytes(10_000)] * 8}), file, row_group_size=1)
    for number in range(8):
        groups.cell(tables.TableImage(file, 0, number, "image"))
    assert len(groups._groups) == 2
