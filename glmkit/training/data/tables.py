"""Where captioned images may lie: folders with captions, JSON lines, parquet files, Hugging Face datasets.

Every reader gives `Row`s; images are opened later, one by one. What a reader cannot read at all is a UserError; a row
that cannot be used is a row with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.files import read_jsonl
from glmkit.inputs.images import IMAGE_SUFFIXES

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """One caption with its image: a path, or an image file's bytes. `name` is how errors call the row.

    `source`: the image that the caption, an instruction, changes into this one. `boxes` (left, top, right, bottom in
    pixels) or `mask` (white on text) tell where text stands. `reason` says why the row cannot be used.
    """

    name: str
    image: Path | bytes = b""
    caption: str = ""
    source: Path | bytes | None = None
    boxes: tuple[Box, ...] | None = None
    mask: Path | bytes | None = None
    reason: UserError | None = None


def read(where: str, columns: Columns) -> list[Row]:
    """The rows of a folder, a `.parquet` file (or a pattern of several), or a hub's dataset (`owner/name:split`)."""
    path = Path(where).expanduser()
    if path.is_dir():
        rows = list(_of_folder(path, columns))
    elif path.suffix == ".parquet":
        files = [path] if path.is_file() else sorted(path.parent.glob(path.name))
        rows = list(_of_parquet(files, columns))
    elif where.count("/") == 1 and ":" in where:
        rows = list(_of_parquet(_download(*where.rsplit(":", 1)), columns))
    else:
        raise UserError(f"image folder {where} does not exist", fix="data.train=FOLDER data.validation=FOLDER")
    if not rows:
        raise UserError(f"no images in {where}", fix="put PNG files and a metadata.jsonl (file_name, text) there")
    return [_checked(row) for row in rows]


def _checked(row: Row) -> Row:
    if row.reason is None and isinstance(row.image, Path) and not row.image.is_file():
        missing = UserError(f"the caption of {row.image.name} has no image", found=f"{row.image} does not exist")
        return Row(row.name, reason=missing)
    if row.reason is None and not row.caption.strip():
        return Row(row.name, reason=UserError(f"the caption of {row.name} is empty", fix="describe the image"))
    return row


def _of_folder(folder: Path, columns: Columns) -> Iterator[Row]:
    if (folder / "metadata.jsonl").exists():
        return _of_table(folder, columns)
    if (folder / "state.json").exists() and (files := sorted(folder.glob("*.arrow"))):
        return _of_arrow(files, columns)
    if files := sorted(folder.rglob("*.parquet")):
        return _of_parquet(files, columns)
    return _of_texts(folder)


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _of_table(folder: Path, columns: Columns) -> Iterator[Row]:
    table = folder / "metadata.jsonl"
    named: set[Path] = set()
    for number, row in enumerate(read_jsonl(table), start=1):
        where = f"{table}, line {number}"
        if not isinstance(row.get("file_name"), str) or not isinstance(row.get(columns.caption), str):
            raise UserError(f"{where}: needs file_name and {columns.caption}", found=row)
        others = {
            key: folder / row[key]
            for key in (columns.condition_image, columns.mask)
            if _is_path(row.get(key), where, key)
        }
        image = folder / row["file_name"]
        named |= {image, *others.values()}
        yield Row(
            str(image),
            image,
            row[columns.caption],
            others.get(columns.condition_image),
            _boxes(row.get(columns.boxes), where),
            others.get(columns.mask),
        )
    for forgotten in sorted(set(_images_in(folder)) - named):
        error = UserError(f"image {forgotten} has no caption", fix=f"add it to {table.name}, or take it away")
        yield Row(str(forgotten), reason=error)


def _is_path(value: Any, where: str, key: str) -> bool:
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


def _of_texts(folder: Path) -> Iterator[Row]:
    images = _images_in(folder)
    for path in images:
        text = path.with_suffix(".txt")
        try:
            yield Row(str(path), path, text.read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            yield Row(str(path), reason=UserError(f"image {path} has no caption", fix=f"write {text.name}"))
        except UnicodeDecodeError as error:
            yield Row(str(path), reason=UserError(f"{text} is not UTF-8 text", found=str(error)))
    for alone in sorted(set(folder.glob("*.txt")) - {path.with_suffix(".txt") for path in images}):
        fix = "add the image, or take the caption away"
        yield Row(str(alone), reason=UserError(f"the caption {alone} has no image", fix=fix))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet and arrow files need pyarrow", fix="pip install pyarrow") from error
    return pyarrow


def _of_parquet(files: Iterable[Path], columns: Columns) -> Iterator[Row]:
    """Rows of parquet files; the encoded images stay in memory."""
    pyarrow = _pyarrow()
    for file in files:
        try:
            table = pyarrow.parquet.read_table(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a whole parquet file", found=str(error).splitlines()[0]) from error
        yield from _of_records(file, table, columns)


def _of_arrow(files: Iterable[Path], columns: Columns) -> Iterator[Row]:
    """Rows of a folder that `datasets` saved."""
    pyarrow = _pyarrow()
    for file in files:
        try:
            table = pyarrow.ipc.open_stream(file.read_bytes()).read_all()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a whole arrow file", found=str(error).splitlines()[0]) from error
        yield from _of_records(file, table, columns)


def _of_records(file: Path, table: Any, columns: Columns) -> Iterator[Row]:
    for key, wanted in (("image", columns.image), ("caption", columns.caption)):
        if wanted not in table.column_names:
            found = f"columns {', '.join(table.column_names)}"
            raise UserError(f"{file} has no column {wanted}", found=found, fix=f"data.columns.{key}=NAME")
    kept = [name for name in vars(columns).values() if name in table.column_names]
    number = 0
    for batch in table.select(kept).to_batches():
        for record in batch.to_pylist():
            number += 1
            yield _of_record(f"{file}, row {number}", record, file.parent, columns)


def _of_record(name: str, record: Mapping[str, Any], folder: Path, columns: Columns) -> Row:
    """A row of a table; images are the bytes of a file, as `datasets` stores them, or its path."""
    try:
        image = _stored(record[columns.image], folder)
        others = [_stored(record.get(key), folder) for key in (columns.condition_image, columns.mask)]
    except TypeError as error:
        return Row(name, reason=UserError(f"{name} holds no image", found=error))
    if image is None:
        return Row(name, reason=UserError(f"{name} holds no image"))
    boxes = _boxes(record.get(columns.boxes), name)
    return Row(name, image, record[columns.caption] or "", others[0], boxes, others[1])


def _stored(value: Any, folder: Path) -> Path | bytes | None:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return folder / value
    raise TypeError(type(value).__name__)


def _download(name: str, split: str) -> list[Path]:
    """The parquet files of one split of a dataset on the hub, in its usual layout (`data/train-00000-of-00001`)."""
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
