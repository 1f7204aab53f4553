"""Rows of parquet and arrow files as a stream, and images in their cells, read when they are needed."""

from __future__ import annotations

import base64
import binascii
import bisect
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.extras import require
from glmkit.files import check_regular

BATCH_ROWS = 16  # of a parquet file that are in memory at once
# The first bytes of a PNG, a JPEG or a WebP file, and more than a path would have.
BASE64_IMAGE = re.compile(r"(data:image/[\w.+-]+;base64,)?(iVBORw0KGgo|/9j/|UklGR)[A-Za-z0-9+/]{60,}={0,2}")
MAX_GROUP_BYTES = 2**30  # of row groups that stay in memory for the images in them


@dataclass(frozen=True)
class TableImage:
    """An image file in a cell of a parquet or arrow file; `row` counts from 0, `column` names the cell.

    `changed`: when the file was last changed, in nanoseconds. `item`: which one of a list in the cell.
    """

    file: Path
    changed: int
    row: int
    column: str
    item: int | None = None

    def read(self) -> Path | bytes:
        """Read the image file's bytes, or find its path; UserError when the cell holds neither."""
        cell = _GROUPS.cell(self)
        if self.item is not None:
            cell = cell[self.item]
        try:
            image = image_in_cell(cell, self.file.parent)
        except TypeError as error:
            raise UserError(f"{self.file}, row {self.row + 1} holds no image", found=error) from error
        if image is None:
            raise UserError(f"{self.file}, row {self.row + 1} holds no image")
        return image


@dataclass(frozen=True)
class RecordImage(TableImage):
    """An image file that a record of JSON holds in base64, as the page of `glmkit serve` writes pairs."""

    data: str = ""

    def read(self) -> bytes:
        """Decode the image file's bytes; UserError when some are missing."""
        try:
            return base64.b64decode(self.data.rpartition(",")[2])
        except binascii.Error as error:
            raise UserError(f"{self.file}, record {self.row + 1}: {self.column} is cut off", found=error) from error


def is_base64_image(value: str) -> bool:
    """Tell whether a text is a PNG, JPEG or WebP file in base64, alone or in a data URL, and not a path."""
    return BASE64_IMAGE.fullmatch(value) is not None


def image_in_cell(cell: Any, folder: Path) -> Path | bytes | None:
    """Return the image of a table's cell: an image file's bytes, the struct {bytes, path} of `datasets`, or a path.

    A path is relative to `folder`. None for an empty cell; TypeError for anything else.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        return folder / cell
    raise TypeError(type(cell).__name__)


def _pyarrow() -> Any:
    require("pyarrow", "a parquet or arrow file")
    import pyarrow
    import pyarrow.parquet

    return pyarrow


def parquet_columns(file: Path) -> list[str]:
    """Return the names of a parquet file's columns; UserError when it is missing or not whole."""
    return list(_open_parquet(file).schema_arrow.names)


def parquet_rows(file: Path, columns: Sequence[str], start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the cells of each row from `start` on; row groups before it are not read."""
    table, first, pyarrow = _open_parquet(file), 0, _pyarrow()
    for group in range(table.num_row_groups):
        count = table.metadata.row_group(group).num_rows
        if first + count > start:
            number = first
            try:
                for batch in table.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=list(columns)):
                    for cells in batch.to_pylist():
                        if number >= start:
                            yield number, cells
                        number += 1
            except (pyarrow.ArrowException, OSError) as error:
                raise _not_whole(file, error) from error
        first += count


def arrow_columns(file: Path) -> list[str]:
    """Return the names of the columns of an arrow file that `datasets` saved."""
    return list(_open_arrow(file).column_names)


def arrow_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the cells of each row of an arrow file that `datasets` saved."""
    number = 0
    for batch in _open_arrow(file).select(list(columns)).to_batches(max_chunksize=BATCH_ROWS):
        for cells in batch.to_pylist():
            yield number, cells
            number += 1


def _open_parquet(file: Path) -> Any:
    pyarrow = _pyarrow()
    try:
        check_regular(file, str(file))
        return pyarrow.parquet.ParquetFile(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist", fix="check the path") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_whole(file, error) from error


def _open_arrow(file: Path) -> Any:
    """Map a file into memory: nothing of it is read yet."""
    pyarrow = _pyarrow()
    try:
        check_regular(file, str(file))
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_whole(file, error) from error


def _not_whole(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file} is not a whole {file.suffix[1:] or 'parquet'} file",
        found=str(error).partition("\n")[0],
        fix="download it again",
    )


class _RowGroups:
    """The row groups that were read last, of one column each, up to `MAX_GROUP_BYTES`; threads share them."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[Path, int, str, int], Any] = OrderedDict()
        self._starts: dict[tuple[Path, int], list[int]] = {}
        self._lock = threading.Lock()

    def cell(self, image: TableImage) -> Any:
        """Return what is in the cell of an image."""
        with self._lock:
            starts = self._first_rows(image.file, image.changed)
            group = bisect.bisect_right(starts, image.row) - 1
            column = self._column((image.file, image.changed, image.column, group))
            return column[image.row - starts[group]].as_py()

    def _first_rows(self, file: Path, changed: int) -> list[int]:
        """Return where each row group of a file begins; an arrow file, which is mapped, is one group."""
        starts = self._starts.setdefault((file, changed), [0])
        if file.suffix != ".arrow" and len(starts) == 1:
            metadata = _open_parquet(file).metadata
            for group in range(metadata.num_row_groups - 1):
                starts.append(starts[-1] + metadata.row_group(group).num_rows)
        return starts

    def _column(self, key: tuple[Path, int, str, int]) -> Any:
        if key not in self._groups:
            file, _, name, group = key
            pyarrow = _pyarrow()
            try:
                whole = file.suffix == ".arrow"
                table = _open_arrow(file) if whole else _open_parquet(file).read_row_group(group, columns=[name])
            except (pyarrow.ArrowException, OSError) as error:
                raise _not_whole(file, error) from error
            self._groups[key] = table.column(name)
            while len(self._groups) > 1 and sum(map(_size, self._groups.values())) > MAX_GROUP_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def _size(column: Any) -> int:
    return int(column.nbytes)


_GROUPS = _RowGroups()
