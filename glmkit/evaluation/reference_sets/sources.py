"""Where the images of a reference set come from: a folder, parquet files or webdataset archives, read as a stream.

Every source lists its images in one fixed order and can start after any of them. Nothing is held but one row group.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmkit.errors import UserError, nearest
from glmkit.evaluation.features.extractors import Extractor, slug
from glmkit.evaluation.features.store import Item, Place
from glmkit.files import read_jsonl
from glmkit.hashing import file_sha256, fingerprint
from glmkit.inputs.images import IMAGE_SUFFIXES
from glmkit.records import Generation
from glmkit.runs import cache_folder

PROMPT_KEYS = ("caption", "prompt", "text")


@dataclass(frozen=True)
class Folder:
    """The image files below `root`, by path. `prompts` maps NAME to the prompt of NAME.png and of NAME_0.png."""

    root: Path
    prompts: Mapping[str, str] = field(default_factory=dict)

    def items(self, after: Place | None) -> Iterator[Item]:
        paths = sorted(
            path for path in self.root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        )
        for row, path in enumerate(paths):
            if after is None or row > after.row:
                key = path.relative_to(self.root).as_posix()
                name = path.stem if path.stem in self.prompts else path.stem.rpartition("_")[0]
                yield Item(Place(0, row), key, path.read_bytes(), self.prompts.get(name))


@dataclass(frozen=True)
class Images:
    """The images of a run, in the order of its rows; rows without an image are passed over."""

    folder: Path
    rows: tuple[Generation, ...]

    def items(self, after: Place | None) -> Iterator[Item]:
        for number, row in enumerate(self.rows):
            if row.file is not None and (after is None or number > after.row):
                yield Item(Place(0, number), row.id, (self.folder / row.file).read_bytes(), row.prompt)

    def cache(self, extractor: Extractor) -> Path:
        """Where the features of these very images are kept, so that evaluations share them."""
        digest = hashlib.sha256()
        for row in self.rows:
            if row.file is not None:
                digest.update(f"{row.id}\0{file_sha256(self.folder / row.file)}\0".encode())
        return cache_folder() / "features" / slug(extractor) / digest.hexdigest()[:16]


@dataclass(frozen=True)
class Column:
    """A parquet column of images with the column of its prompts. `only`: (column, value) that a row must have;
    values are compared without case and punctuation."""

    image: str
    prompt: str | None = None
    only: tuple[str, str] | None = None

    def names(self) -> set[str]:
        return {name for name in (self.image, self.prompt, self.only and self.only[0]) if name}


@dataclass(frozen=True)
class Parquet:
    """Images in columns: bytes, the struct {bytes, path} of Hugging Face datasets, or paths beside the file."""

    files: tuple[Path, ...]
    columns: tuple[Column, ...]

    def items(self, after: Place | None) -> Iterator[Item]:
        start = after or Place(0, 0, -1)
        others: set[str] = set()
        found = after is not None
        for number, file in enumerate(self.files):
            if number < start.file:
                continue
            for row, cells in _rows(file, self.columns, start.row if number == start.file else 0):
                for part, column in enumerate(self.columns):
                    place = Place(number, row, part)
                    if column.only and plain(cells[column.only[0]]) != plain(column.only[1]):
                        others.add(str(cells[column.only[0]]))
                    elif place > start and (data := _bytes(cells[column.image], file)) is not None:
                        found = True
                        prompt = cells[column.prompt] if column.prompt else None
                        yield Item(place, f"{file.name}#{row} {column.image}", data, prompt)
        if not found and others:
            wanted = next(column.only[1] for column in self.columns if column.only)
            raise UserError(f"no image of {wanted} in the files", found=", ".join(sorted(others)))


def _rows(file: Path, columns: Sequence[Column], start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, cells) of each row from `start`; row groups before it are not read."""
    names = sorted(set().union(*(column.names() for column in columns)))
    with _readable(file):
        import pyarrow.parquet

        table = pyarrow.parquet.ParquetFile(file)
        if missing := sorted(set(names) - set(table.schema_arrow.names)):
            known = table.schema_arrow.names
            guess = nearest(missing[0], known) or known[0]
            raise UserError(f"{file} has no column {missing[0]!r}", found=", ".join(known), fix=f"--column {guess}")
        first = 0
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if first + size > start:
                row = first
                for batch in table.iter_batches(batch_size=16, row_groups=[group], columns=names):
                    for cells in batch.to_pylist():
                        if row >= start:
                            yield row, cells
                        row += 1
            first += size


def _bytes(cell: Any, file: Path) -> bytes | None:
    """The encoded image in a cell, None when the cell is empty."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        path = file.parent / cell
        return path.read_bytes() if path.is_file() else cell.encode()  # no such file: an error row
    if cell is None or isinstance(cell, bytes):
        return cell
    raise UserError(f"{file}: an image column holds {type(cell).__name__}", fix="bytes, {bytes, path}, or paths")


def plain(value: object) -> str:
    """DALL-E 3, dalle-3 and dalle3 are one name."""
    return re.sub(r"[^a-z0-9]", "", str(value).lower())


@dataclass(frozen=True)
class WebDataset:
    """Tar archives in which files that share their name up to the first dot are one sample.

    The prompt is `prompt_key` of the sample's .json (without one: the first of caption, prompt, text), or its .txt.
    """

    files: tuple[Path, ...]
    prompt_key: str | None = None

    def items(self, after: Place | None) -> Iterator[Item]:
        for number, file in enumerate(self.files):
            if after is not None and number < after.file:
                continue
            first = after.row + 1 if after is not None and number == after.file else 0
            for row, (name, sample) in enumerate(_samples(file, first)):
                data = next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)
                if row >= first and data is not None:
                    with _readable(file):
                        prompt = self._prompt(sample)
                    yield Item(Place(number, row), f"{file.name}/{name}", data, prompt)

    def _prompt(self, sample: Mapping[str, bytes]) -> str | None:
        if ".json" in sample:
            about = json.loads(sample[".json"])
            keys = (self.prompt_key,) if self.prompt_key else PROMPT_KEYS
            if found := next((about[key] for key in keys if key in about), None):
                return str(found)
        return sample[".txt"].decode("utf-8", "replace").strip() if ".txt" in sample else None


def _samples(file: Path, first: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(name, ending -> content) of each sample; contents before the sample number `first` are passed over."""
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
                sample[f".{ending.lower()}"] = handle.read()
    if name is not None:
        yield "/".join(filter(None, name)), sample


def _check_end(file: Path) -> None:
    """UserError for an archive without its end: tarfile takes one that was cut between two files for a whole one."""
    with _readable(file), file.open("rb") as handle:
        if file.suffix == ".tar" and handle.seek(0, 2) >= tarfile.BLOCKSIZE:
            handle.seek(-tarfile.BLOCKSIZE, 2)
            if any(handle.read()):
                raise tarfile.ReadError("it is cut short")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError("parquet files need the package pyarrow", fix='pip install "glmkit[eval]"') from error
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist", fix="check the path") from error
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{file} cannot be read", found=error, fix="download it again") from error


def identity(path: Path) -> str:
    """A short name for the content of a file; for a folder, of the names and sizes of its files."""
    if path.is_file():
        return fingerprint(path)
    sizes = sorted((file.relative_to(path).as_posix(), file.stat().st_size) for file in path.rglob("*.*"))
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]


def read_prompts(path: Path) -> dict[str, str]:
    """File name without its ending -> prompt.

    From JSONL with `file_name` (or `id`) and `prompt` (or `text`); in any other text, line N (from 1) is the prompt of
    the image N.
    """
    if path.suffix == ".jsonl":
        rows = read_jsonl(path)
        try:
            return {Path(row.get("file_name") or row["id"]).stem: row.get("prompt") or row["text"] for row in rows}
        except KeyError as error:
            raise UserError(
                f"{path}: a row has no {error.args[0]!r}", fix='{"file_name": "1.png", "prompt": ...}'
            ) from error
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt file {path} cannot be read", found=error) from error
    return {str(number): line.strip() for number, line in enumerate(lines, start=1)}
