"""Images -> features in one file, N D float32, written batch by batch: memory does not grow with N, a kill costs one
batch, and a continued run cuts the same batches (floating-point sums depend on them).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from glmkit import runs
from glmkit.distributed.work_queue import exclusive
from glmkit.errors import UserError
from glmkit.evaluation.features.extractors import Extractor
from glmkit.files import append_jsonl, explained, read_json, read_jsonl, write_json, write_jsonl
from glmkit.inputs.images import as_rgb

BATCH = 32
Entry = tuple[dict[str, Any], Image.Image | None]  # a journal row, and its image when it counts
IMAGES, FEATURES, COMPLETE = "images.jsonl", "features.f32", "complete.json"


class Place(NamedTuple):
    """Where an image is: the number of the file in its source, the row in it, and which of the row's images."""

    file: int
    row: int
    part: int = 0


@dataclass(frozen=True)
class Item:
    """An encoded image; `key` says in words where it came from."""

    place: Place
    key: str
    data: bytes
    prompt: str | None = None


class Source(Protocol):
    def items(self, after: Place | None) -> Iterator[Item]:
        """Every image after that place, always in the same order."""
        ...


@dataclass(frozen=True)
class Features:
    """Stored features, `count` x `width`; `repeats` and `errors` count what was read beside them, `formats` the kinds
    of the files (PNG, JPEG, ...).
    """

    folder: Path
    width: int
    count: int
    repeats: int
    errors: int
    formats: Mapping[str, int]

    def rows(self) -> Iterator[dict[str, Any]]:
        """What was read: `place`, `key`, `prompt`, `sha256`, and `index` (of the features), `repeats` or `error`."""
        return _rows(self.folder)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The features with these indices, in that order: for as many as fit into memory."""
        stored = np.memmap(self.folder / FEATURES, np.float32, "r", shape=(self.count, self.width))
        return np.asarray(stored[indices])


def collect(
    source: Source, extractor: Extractor, folder: Path, *, unique: bool, title: str, limit: int | None = None
) -> Features:
    """The features of the images of a source (of the first `limit`), continued where an earlier call stopped.

    `unique`: an image that occurs again, byte for byte, counts once. An image that cannot be read is a row with its
    error. UserError when there is none that can.
    """
    with exclusive(folder):
        if not (folder / COMPLETE).exists():
            _collect(source, extractor, folder, unique, title, limit)
    return load(folder)


def _collect(source: Source, extractor: Extractor, folder: Path, unique: bool, title: str, limit: int | None) -> None:
    rows = _continue(folder, extractor.width)
    seen = {bytes.fromhex(row["sha256"]) for row in rows if "index" in row} if unique else None
    count = sum("index" in row for row in rows)
    items = source.items(Place(*rows[-1]["place"]) if rows else None)
    del rows
    with ThreadPoolExecutor(max(1, min(8, runs.cores()))) as pool, _progress() as progress:
        task = progress.add_task(title, total=limit, completed=count)
        found = _first(_read(items, seen, pool), None if limit is None else limit - count)
        for batch in _batches(found):
            images = [image for _, image in batch if image is not None]
            if images:
                _append(folder / FEATURES, extractor.extract(images))
            new = []
            for row, image in batch:
                new.append(row if image is None else {**row, "format": image.format, "index": count})
                count += image is not None
            append_jsonl(folder / IMAGES, *new)
            progress.advance(task, len(images))
    _finish(folder, extractor, title)


def _progress() -> Progress:
    """How many images are done; how many there are, a stream does not say."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} images"))
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))


def load(folder: Path) -> Features:
    """Features that are complete."""
    about = read_json(folder / COMPLETE)
    return Features(folder, *(about[name] for name in ("width", "count", "repeats", "errors", "formats")))


def _finish(folder: Path, extractor: Extractor, title: str) -> None:
    """Mark the features as complete; UserError when there are none."""
    kinds = Counter(name for row in _rows(folder) for name in ("index", "repeats", "error") if name in row)
    if not kinds["index"]:
        first = next((f"{row['key']}: {row['error']}" for row in _rows(folder) if "error" in row), "no images")
        raise UserError(f"{title}: no image could be read", found=first, fix="check the files and the options")
    about = {
        "width": extractor.width,
        "count": kinds["index"],
        "repeats": kinds["repeats"],
        "errors": kinds["error"],
        "formats": Counter(row["format"] for row in _rows(folder) if "index" in row),
    }
    made_by = {"spec": extractor.spec, "label": extractor.label, "conventions": dict(extractor.conventions)}
    write_json(folder / COMPLETE, {**about, **made_by})


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of the journal, one at a time; none when nothing was read."""
    if (folder / IMAGES).exists():
        with (folder / IMAGES).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def decode(data: bytes) -> Image.Image:
    """RGB, upright, transparent parts on white, with the `format` of the file; any error of the decoder."""
    with Image.open(io.BytesIO(data)) as opened:
        image = as_rgb(opened)
        image.format = opened.format
        return image


def _continue(folder: Path, width: int) -> list[dict[str, Any]]:
    """The rows of whole batches that are stored; what a kill left beyond them is cut off both files."""
    rows = read_jsonl(folder / IMAGES, partial=True) if (folder / IMAGES).exists() else []
    whole = sum("index" in row for row in rows) // BATCH * BATCH
    last = max((position for position, row in enumerate(rows) if row.get("index", whole) < whole), default=-1)
    rows = rows[: last + 1]
    if (folder / IMAGES).exists():
        write_jsonl(folder / IMAGES, rows)
    _cut(folder / FEATURES, whole * width * 4)
    return rows


def _cut(path: Path, size: int) -> None:
    if path.exists():
        os.truncate(path, size)


def _append(path: Path, features: np.ndarray) -> None:
    with explained(path), path.open("ab") as handle:
        handle.write(np.ascontiguousarray(features, dtype=np.float32).tobytes())
        handle.flush()
        os.fsync(handle.fileno())


def _read(items: Iterator[Item], seen: set[bytes] | None, pool: ThreadPoolExecutor) -> Iterator[Entry]:
    """Journal rows with their images, decoded a batch ahead by the pool."""
    while ahead := list(islice(items, BATCH)):
        decoded = [pool.submit(_attempt, item.data) for item in ahead]
        for item, future in zip(ahead, decoded, strict=True):
            digest = hashlib.sha256(item.data).digest()
            row: dict[str, Any] = {"place": item.place, "key": item.key, "prompt": item.prompt}
            row["sha256"] = digest.hex()
            if seen is not None and digest in seen:
                yield {**row, "repeats": True}, None
                continue
            image, error = future.result()
            if error is not None:
                yield {**row, "error": error}, None
                continue
            if seen is not None:
                seen.add(digest)
            yield row, image


def _attempt(data: bytes) -> tuple[Image.Image | None, str | None]:
    try:
        return decode(data), None
    except UnidentifiedImageError:
        return None, "not an image"  # its own words hold an address in memory
    except Exception as error:  # any failure of a decoder is this image's error row
        return None, f"{type(error).__name__}: {error}"


def _first(found: Iterator[Entry], limit: int | None) -> Iterator[Entry]:
    """Entries with up to `limit` images."""
    images = 0
    while images != limit and (entry := next(found, None)) is not None:
        images += entry[1] is not None
        yield entry


def _batches(found: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Groups with `BATCH` images each, except the last."""
    batch: list[Entry] = []
    images = 0
    for entry in found:
        batch.append(entry)
        images += entry[1] is not None
        if images == BATCH:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch
