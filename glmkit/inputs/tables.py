"""Images with captions where people have them: folders, JSON lines, parquet and arrow files, Hugging Face data sets.

Every reader gives `CaptionedImage`s; images are opened later, one by one. A table that cannot be read at all is a
UserError; a line that cannot be used comes with its error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.extras import require
from glmkit.files import read_jsonl
from glmkit.inputs.images import IMAGE_SUFFIXES

METADATA = "metadata.jsonl"
HUB_DATASET = re.compile(r"[^/:\\]+/[^/:\\]+:[^/:\\]+")  # owner/name:split, and no drive of Windows
BATCH_ROWS = 16  # of a parquet file that are in memory at once
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class CaptionedImage:
    """One caption with its image: a path, or an image file's bytes. `name` is how errors call it.

    `condition_image`: the image that the caption, an instruction, changes into this one. `boxes` (left, top, right,
    bottom in pixels) or `mask` (white on text) tell where text stands. `error` says why it cannot be used.
    """

    name: str
    image: Path | bytes = b""
    caption: str = ""
    condition_image: Path | bytes | None = None
    boxes: tuple[Box, ...] | None = None
    mask: Path | bytes | None = None
    error: UserError | None = None


def read_captioned_images(location: str, columns: Columns) -> list[CaptionedImage]:
    """Read a folder, a `.parquet` file (or a pattern of several), or a data set of the hub (`owner/name:split`)."""
    path = Path(location).expanduser()
    if path.is_dir():
        images = list(_from_folder(path, columns))
    elif path.suffix == ".parquet":
        files = [path] if path.is_file() else sorted(path.parent.glob(path.name))
        images = list(_from_parquet(files, columns))
    elif HUB_DATASET.fullmatch(location):
        images = list(_from_parquet(_download(*location.rsplit(":", 1)), columns))
    else:
        raise UserError(f"image folder {location} does not exist", fix="data.train=FOLDER data.validation=FOLDER")
    if not images:
        raise UserError(f"no images in {location}", fix=f"put PNG files and a {METADATA} (file_name, text) there")
    return [_checked(image) for image in images]


def _checked(image: CaptionedImage) -> CaptionedImage:
    if image.error is None and isinstance(image.image, Path) and not image.image.is_file():
        error = UserError(f"the caption of {image.image.name} has no image", found=f"{image.image} does not exist")
        return CaptionedImage(image.name, error=error)
    if image.error is None and not image.caption.strip():
        error = UserError(f"the caption of {image.name} is empty", fix="describe the image")
        return CaptionedImage(image.name, error=error)
    return image


def _from_folder(folder: Path, columns: Columns) -> Iterator[CaptionedImage]:
    if (folder / METADATA).exists():
        return _from_jsonl(folder, columns)
    if (folder / "state.json").exists() and (files := sorted(folder.glob("*.arrow"))):
        return _from_arrow(files, columns)
    if files := sorted(folder.rglob("*.parquet")):
        return _from_parquet(files, columns)
    return _from_text_files(folder)


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _from_jsonl(folder: Path, columns: Columns) -> Iterator[CaptionedImage]:
    table = folder / METADATA
    named: set[Path] = set()
    for number, line in enumerate(read_jsonl(table), start=1):
        where = f"{table}, line {number}"
        if not isinstance(line.get("file_name"), str) or not isinstance(line.get(columns.caption), str):
            raise UserError(f"{where}: needs file_name and {columns.caption}", found=line)
        others = {
            key: folder / line[key]
            for key in (columns.condition_image, columns.mask)
            if _names_a_file(line.get(key), where, key)
        }
        image = folder / line["file_name"]
        named |= {image, *others.values()}
        yield CaptionedImage(
            str(image),
            image,
            line[columns.caption],
            others.get(columns.condition_image),
            _boxes(line.get(columns.boxes), where),
            others.get(columns.mask),
        )
    for forgotten in sorted(set(_images_in(folder)) - named):
        error = UserError(f"image {forgotten} has no caption", fix=f"add it to {table.name}, or take it away")
        yield CaptionedImage(str(forgotten), error=error)


def _names_a_file(value: Any, where: str, key: str) -> bool:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {key} must name a file", found=value)
    return value is not None


def _boxes(value: Any, where: str) -> tuple[Box, ...] | None:
    if value is None:
        return None
    try:
        boxes = tuple((float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: text boxes are lists of left, top, right, bottom", found=value) from error
    if any(left > right or top > bottom for left, top, right, bottom in boxes):
        raise UserError(f"{where}: a text box ends before it begins", found=value)
    return boxes


def _from_text_files(folder: Path) -> Iterator[CaptionedImage]:
    images = _images_in(folder)
    for path in images:
        text = path.with_suffix(".txt")
        try:
            yield CaptionedImage(str(path), path, text.read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            error = UserError(f"image {path} has no caption", fix=f"write {text.name}")
            yield CaptionedImage(str(path), error=error)
        except UnicodeDecodeError as problem:
            yield CaptionedImage(str(path), error=UserError(f"{text} is not UTF-8 text", found=str(problem)))
    for alone in sorted(set(folder.glob("*.txt")) - {path.with_suffix(".txt") for path in images}):
        fix = "add the image, or take the caption away"
        yield CaptionedImage(str(alone), error=UserError(f"the caption {alone} has no image", fix=fix))


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


def _open_parquet(file: Path) -> Any:
    pyarrow = _pyarrow()
    try:
        return pyarrow.parquet.ParquetFile(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist", fix="check the path") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_whole(file, error) from error


def _not_whole(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} is not a whole parquet file", found=str(error).splitlines()[0], fix="download it again")


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


def _from_parquet(files: Iterable[Path], columns: Columns) -> Iterator[CaptionedImage]:
    """Read parquet files; the encoded images stay in memory."""
    for file in files:
        names = _needed(file, parquet_columns(file), columns)
        for number, cells in parquet_rows(file, names):
            yield _from_cells(f"{file}, row {number + 1}", cells, file.parent, columns)


def _from_arrow(files: Iterable[Path], columns: Columns) -> Iterator[CaptionedImage]:
    """Read a folder that `datasets` saved."""
    pyarrow = _pyarrow()
    for file in files:
        try:
            table = pyarrow.ipc.open_stream(file.read_bytes()).read_all()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a whole arrow file", found=str(error).splitlines()[0]) from error
        number = 0
        for batch in table.select(_needed(file, table.column_names, columns)).to_batches():
            for cells in batch.to_pylist():
                number += 1
                yield _from_cells(f"{file}, row {number}", cells, file.parent, columns)


def _needed(file: Path, names: Sequence[str], columns: Columns) -> list[str]:
    """Return the columns to read; UserError when the table has no images or no captions."""
    for key, needed in (("image", columns.image), ("caption", columns.caption)):
        if needed not in names:
            found = f"columns {', '.join(names)}"
            raise UserError(f"{file} has no column {needed}", found=found, fix=f"data.columns.{key}=NAME")
    return [name for name in vars(columns).values() if name in names]


def _from_cells(name: str, cells: Mapping[str, Any], folder: Path, columns: Columns) -> CaptionedImage:
    try:
        image = image_in_cell(cells[columns.image], folder)
        condition_image, mask = (
            image_in_cell(cells.get(key), folder) for key in (columns.condition_image, columns.mask)
        )
    except TypeError as error:
        return CaptionedImage(name, error=UserError(f"{name} holds no image", found=error))
    if image is None:
        return CaptionedImage(name, error=UserError(f"{name} holds no image"))
    boxes = _boxes(cells.get(columns.boxes), name)
    return CaptionedImage(name, image, cells[columns.caption] or "", condition_image, boxes, mask)


def _download(name: str, split: str) -> list[Path]:
    """Fetch the parquet files of one split of a data set on the hub, in its default layout (`data/train-0-of-1`)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"**/{split}-*.parquet", f"{split}-*.parquet", f"**/{split}/*.parquet", f"{split}/*.parquet"]
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot get dataset {name} from the hub", found=reason, fix="check the name") from error
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if not files:
        raise UserError(f"dataset {name} has no parquet files of split {split}", fix=f"{name}:train, or another split")
    return files
