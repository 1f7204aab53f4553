"""Where the images of a reference set come from: a folder, parquet files or webdataset archives, read as a stream.

Every source lists its images in one fixed order and can start after any of them. Nothing is held but one row group.
"""

from __future__ import annotations

import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmkit.errors import UserError, nearest
from glmkit.evaluation.features.store import EncodedImage, Position
from glmkit.files import check_regular, read_jsonl, read_regular, read_text
from glmkit.hashing import fingerprint
from glmkit.inputs.images import IMAGE_SUFFIXES, MAX_BYTES
from glmkit.inputs.splits import is_foreign
from glmkit.inputs.tables import image_in_cell, parquet_columns, parquet_rows
from glmkit.text import decode, parse_json

PROMPT_KEYS = ("caption", "prompt", "text")
MAX_PADDING = 2**20  # bytes of zeros behind the last file of an archive; tar pads to 10,240


@dataclass(frozen=True)
class FolderSource:
    """Read the image files below `root`, by path. `prompts` maps NAME to the prompt of NAME.png and of NAME_0.png."""

    root: Path
    prompts: Mapping[str, str] = field(default_factory=dict)

    def images(self, after: Position | None) -> Iterator[EncodedImage]:
        """Read every image after that position."""
        found = (path for path in self.root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())
        paths = sorted(path for path in found if not any(map(is_foreign, path.relative_to(self.root).parts)))
        for number, path in enumerate(paths):
            if after is None or number > after.record:
                key = path.relative_to(self.root).as_posix()
                name = path.stem if path.stem in self.prompts else path.stem.rpartition("_")[0]
                yield EncodedImage(Position(0, number), key, _content(path), self.prompts.get(name))


@dataclass(frozen=True)
class ImageColumn:
    """Name a parquet column of images with the column of its prompts.

    `only`: (column, value) that a row must have; values are compared without case and punctuation.
    """

    image: str
    prompt: str | None = None
    only: tuple[str, str] | None = None

    def names(self) -> set[str]:
        """List the columns that must be read."""
        return {name for name in (self.image, self.prompt, self.only and self.only[0]) if name}


@dataclass(frozen=True)
class ParquetSource:
    """Read images in columns: bytes, the struct {bytes, path} of Hugging Face datasets, or paths beside the file."""

    files: tuple[Path, ...]
    columns: tuple[ImageColumn, ...]

    def images(self, after: Position | None) -> Iterator[EncodedImage]:
        """Read every image after that position; UserError when no row has the wanted value."""
        start = after or Position(0, 0, -1)
        other_values: set[str] = set()
        any_image = after is not None
        for number, file in enumerate(self.files):
            if number < start.file:
                continue
            for row, cells in _rows(file, self.columns, start.record if number == start.file else 0):
                for index, column in enumerate(self.columns):
                    position = Position(number, row, index)
                    if column.only and simplify(cells[column.only[0]]) != simplify(column.only[1]):
                        other_values.add(str(cells[column.only[0]]))
                    elif position > start and (data := _bytes(cells[column.image], file)) is not None:
                        any_image = True
                        prompt = _prompt_in(cells[column.prompt]) if column.prompt else None
                        yield EncodedImage(position, f"{file.name}#{row} {column.image}", data, prompt)
        if not any_image and other_values:
            wanted = next(column.only[1] for column in self.columns if column.only)
            raise UserError(f"no image of {wanted} in the files", found=", ".join(sorted(other_values)))


def _rows(file: Path, columns: Sequence[ImageColumn], start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read (number, cells) of each row from `start`; UserError with the nearest name for a column that is not there."""
    names = sorted(set().union(*(column.names() for column in columns)))
    known = parquet_columns(file)
    if missing := sorted(set(names) - set(known)):
        guess = nearest(missing[0], known) or next(iter(known), "NAME")
        raise UserError(
            f"{file} has no column {missing[0]!r}", found=", ".join(known), fix=f"--column {shlex.quote(guess)}"
        )
    return parquet_rows(file, names, start)


def _prompt_in(cell: Any) -> str | None:
    """Return the prompt in a cell, the first of several."""
    while isinstance(cell, list):
        cell = cell[0] if cell else None
    return None if cell is None else str(cell)


def _bytes(cell: Any, file: Path) -> bytes | None:
    """Take the encoded image out of a cell, None when the cell is empty."""
    try:
        image = image_in_cell(cell, file.parent)
    except TypeError as error:
        raise UserError(f"{file}: an image column holds {error}", fix="bytes, {bytes, path}, or paths") from error
    if isinstance(image, Path):
        return _content(image)
    return image


def _content(path: Path) -> bytes:
    """Read an image file; what cannot be read are bytes of no image, an error of this image alone."""
    try:
        return read_regular(path, str(path), MAX_BYTES)
    except UserError as error:
        return error.what.encode()


def simplify(value: object) -> str:
    """Drop case and punctuation: DALL-E 3, dalle-3 and dalle3 are one name."""
    return re.sub(r"[^a-z0-9]", "", str(value).lower())


@dataclass(frozen=True)
class WebDatasetSource:
    """Read tar archives in which files that share their name up to the first dot are one sample.

    The prompt is `prompt_key` of the sample's .json (without one: the first of caption, prompt, text), or its .txt.
    """

    files: tuple[Path, ...]
    prompt_key: str | None = None

    def images(self, after: Position | None) -> Iterator[EncodedImage]:
        """Read every image after that position."""
        for number, file in enumerate(self.files):
            if after is not None and number < after.file:
                continue
            first = after.record + 1 if after is not None and number == after.file else 0
            for record, (name, sample) in enumerate(_samples(file, first)):
                data = next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)
                if record >= first and data is not None:
                    prompt = self._prompt(sample, f"{file} cannot be read: a .json file in it")
                    yield EncodedImage(Position(number, record), f"{file.name}/{name}", data, prompt)

    def _prompt(self, sample: Mapping[str, bytes], name: str) -> str | None:
        if ".json" in sample:
            about = parse_json(decode(sample[".json"], name), name)
            about = about if isinstance(about, dict) else {}
            keys = (self.prompt_key,) if self.prompt_key else PROMPT_KEYS
            if prompt := next((about[key] for key in keys if key in about), None):
                return str(prompt)
        return sample[".txt"].decode("utf-8-sig", "replace").strip() if ".txt" in sample else None


def _samples(file: Path, first: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Read (name, ending -> content) of each sample; contents before the sample number `first` are passed over."""
    name: tuple[str, str] | None = None
    sample: dict[str, bytes] = {}
    number = -1
    _check_end(file)
    with _readable(file), tarfile.open(file, "r|*") as archive:
        for member in archive:
            if not member.isfile():
                continue
            folder, _, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            if (folder, stem) != name:
                if name is not None:
                    yield "/".join(filter(None, name)), sample
                name, sample, number = (folder, stem), {}, number + 1
            if number >= first and (handle := archive.extractfile(member)):
                sample[f".{ending.lower()}"] = handle.read() if member.size <= MAX_BYTES else b""
    if name is not None:
        yield "/".join(filter(None, name)), sample


def _check_end(file: Path) -> None:
    """Raise UserError for an archive without its end: tarfile takes one that was cut between two files for whole.

    So it does with one that goes on behind its end, for however many gigabytes.
    """
    with _readable(file), file.open("rb") as handle:
        if file.suffix == ".tar" and (size := handle.seek(0, 2)) >= tarfile.BLOCKSIZE:
            handle.seek(-tarfile.BLOCKSIZE, 2)
            if any(handle.read()):
                raise tarfile.ReadError("it is cut short")
            if size > MAX_BYTES:
                with tarfile.open(file, "r:") as archive:
                    end = max((entry.offset_data + entry.size for entry in archive), default=0)
                if size - end > MAX_PADDING:
                    raise tarfile.ReadError(f"its files end at byte {end:,} of {size:,}")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        check_regular(file, str(file))
        yield
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist", fix="check the path") from error
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{file} cannot be read", found=error, fix="download it again") from error


def source_fingerprint(path: Path) -> str:
    """Name the content of a file, or of all files in a folder, in 16 hexadecimal digits.

    UserError for an image that is too large and for a table that is not whole, before hours are spent on hashing them.
    """
    if path.suffix == ".parquet" and path.is_file():
        parquet_columns(path)
    if path.suffix == ".tar":
        _check_end(path)
    for file in path.rglob("*") if path.is_dir() else ():
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and (size := file.stat().st_size) > MAX_BYTES:
            raise UserError(f"{file} is too large", found=f"{size:,} bytes", fix=f"remove it, or at most {MAX_BYTES:,}")
    return fingerprint(path, passed_over=())


def read_prompts(path: Path) -> dict[str, str]:
    """Read prompts by the file name of their image, without its ending.

    A JSONL file has `file_name` (or `id`) and `prompt` (or `text`); in any other text, line N (from 1) is the prompt
    of the image N.
    """
    if path.suffix == ".jsonl":
        prompts = {}
        for number, one in enumerate(read_jsonl(path), start=1):
            name, prompt = one.get("file_name") or one.get("id"), one.get("prompt") or one.get("text")
            if not isinstance(name, str | int) or not isinstance(prompt, str):
                fix = '{"file_name": "1.png", "prompt": ...}'
                raise UserError(f"{path}, record {number}: needs file_name (or id) and prompt", found=one, fix=fix)
            prompts[Path(str(name)).stem] = prompt
        return prompts
    return {str(number): line.strip() for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), start=1)}
