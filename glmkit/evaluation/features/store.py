"""Features in one file, N D float32, written batch by batch: memory does not grow with N, a kill costs one batch, and a
continued run cuts the same batches (floating-point sums depend on them).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

import numpy as np
from PIL import Image

from glmkit import runs
from glmkit.distributed.work_queue import exclusive
from glmkit.errors import UserError
from glmkit.evaluation.features.extractors import Extractor
from glmkit.files import append_jsonl, explained, read_json, read_jsonl, write_json, write_jsonl
from glmkit.inputs.images import read
from glmkit.progress import progress_bars
from glmkit.shapes import check_shape
from glmkit.text import parse_json

BATCH = 32
DecodedImage = tuple[dict[str, Any], Image.Image | None]  # a record of the journal, and its image when it counts
IMAGES, FEATURES, COMPLETE = "images.jsonl", "features.f32", "complete.json"


class Complete(TypedDict):
    """Hold what `COMPLETE` says: how many features there are, and what made them."""

    width: int
    count: int
    repeats: int
    errors: int
    formats: Mapping[str, int]
    spec: str
    label: str


class Read(TypedDict):
    """Hold what every line of `IMAGES` says."""

    position: tuple[int, int, int]
    key: str
    prompt: str | None
    sha256: str


class Position(NamedTuple):
    """Point at an image: the number of the file in its source, the record in the file, the image in the record."""

    file: int
    record: int
    image: int = 0


@dataclass(frozen=True)
class EncodedImage:
    """Hold the bytes of an image file; `key` says in words where they came from."""

    position: Position
    key: str
    data: bytes
    prompt: str | None = None


class ImageSource(Protocol):
    """Read images as a stream."""

    def images(self, after: Position | None) -> Iterator[EncodedImage]:
        """Read every image after that position, always in the same order."""
        ...


@dataclass(frozen=True)
class StoredFeatures:
    """Hold features on the disk, `count` x `width`.

    `repeats` and `errors` count what was read beside them, `formats` the kinds of the files (PNG, JPEG, ...).
    """

    folder: Path
    width: int
    count: int
    repeats: int
    errors: int
    formats: Mapping[str, int]

    def records(self) -> Iterator[dict[str, Any]]:
        """Say what was read: position, key, prompt, sha256, and `index` (of the feature), `repeats` or `error`."""
        return _records(self.folder)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Read the features with these indices, in that order; they must fit into memory."""
        with _intact(self.folder):
            stored = np.memmap(self.folder / FEATURES, np.float32, "r", shape=(self.count, self.width))
            features = np.asarray(stored[indices])
            if (self.folder / FEATURES).stat().st_size != stored.nbytes:
                raise ValueError(f"{FEATURES} has another size")
            if not np.isfinite(features).all():  # torchmetrics dies of them
                raise ValueError(f"{FEATURES} holds numbers that are not finite")
        return features


def extract_features(
    source: ImageSource, extractor: Extractor, folder: Path, *, unique: bool, title: str, limit: int | None = None
) -> StoredFeatures:
    """Extract the features of the images of a source (of the first `limit`), continued where an earlier call stopped.

    `unique`: an image that occurs again, byte for byte, counts once. An image that cannot be read is a record with its
    error. UserError when there is none that can.
    """
    with exclusive(folder):
        if not (folder / COMPLETE).exists():
            _extract(source, extractor, folder, unique, title, limit)
    return load(folder)


def load(folder: Path) -> StoredFeatures:
    """Open features that are complete."""
    about = read_complete(folder)
    return StoredFeatures(folder, *(about[name] for name in ("width", "count", "repeats", "errors", "formats")))


def read_complete(folder: Path) -> dict[str, Any]:
    """Read what is known of features that are complete; UserError when it is damaged."""
    with _intact(folder):
        about: dict[str, Any] = read_json(folder / COMPLETE)
        check_shape(about, Complete, COMPLETE)
    return about


@contextmanager
def _intact(folder: Path) -> Iterator[None]:
    """Turn what is wrong with the files of complete features into one UserError that says how to make them anew."""
    try:
        yield
    except (UserError, OSError, ValueError) as error:
        found, fix = getattr(error, "what", error), f"delete {folder}, and run the same command again"
        raise UserError(f"the features in {folder} are damaged", found=found, fix=fix) from error


def _extract(
    source: ImageSource, extractor: Extractor, folder: Path, unique: bool, title: str, limit: int | None
) -> None:
    records = _whole_batches(folder, extractor.width)
    seen = {bytes.fromhex(record["sha256"]) for record in records if "index" in record} if unique else None
    count = sum("index" in record for record in records)
    encoded = source.images(Position(*records[-1]["position"]) if records else None)
    del records
    with ThreadPoolExecutor(max(1, min(8, runs.cores()))) as pool, progress_bars() as progress:
        task = progress.add_task(title, total=limit, completed=count)  # how many there are, a stream does not say
        decoded = _first(_decode_ahead(encoded, seen, pool), None if limit is None else limit - count)
        for batch in _batches(decoded):
            images = [image for _, image in batch if image is not None]
            if images:
                _append(folder / FEATURES, extractor.extract(images))
            new = []
            for record, image in batch:
                new.append(record if image is None else {**record, "format": image.format, "index": count})
                count += image is not None
            append_jsonl(folder / IMAGES, *new)
            progress.advance(task, len(images))
    _mark_complete(folder, extractor, title)


def _mark_complete(folder: Path, extractor: Extractor, title: str) -> None:
    """Mark the features as complete; UserError when there are none."""
    kinds = Counter(name for record in _records(folder) for name in ("index", "repeats", "error") if name in record)
    if not kinds["index"]:
        errors = (f"{record['key']}: {record['error']}" for record in _records(folder) if "error" in record)
        first = next(errors, "no images")
        raise UserError(f"{title}: no image could be read", found=first, fix="check the files and the options")
    about = {
        "width": extractor.width,
        "count": kinds["index"],
        "repeats": kinds["repeats"],
        "errors": kinds["error"],
        "formats": Counter(record["format"] for record in _records(folder) if "index" in record),
    }
    made_by = {"spec": extractor.spec, "label": extractor.label, "conventions": dict(extractor.conventions)}
    write_json(folder / COMPLETE, {**about, **made_by})


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the journal, one record at a time; none when nothing was read."""
    if (folder / IMAGES).exists():
        with _intact(folder), (folder / IMAGES).open(encoding="utf-8") as lines:
            for line in lines:
                record = parse_json(line, IMAGES)
                check_shape(record, Read, IMAGES)
                yield record


def _whole_batches(folder: Path, width: int) -> list[dict[str, Any]]:
    """Read the records of whole batches that are stored, and cut off both files what a kill left beyond them."""
    records = read_jsonl(folder / IMAGES, partial=True) if (folder / IMAGES).exists() else []
    whole = sum("index" in record for record in records) // BATCH * BATCH
    last = max((number for number, record in enumerate(records) if record.get("index", whole) < whole), default=-1)
    records = records[: last + 1]
    if (folder / IMAGES).exists():
        write_jsonl(folder / IMAGES, records)
    if (folder / FEATURES).exists():
        os.truncate(folder / FEATURES, whole * width * 4)
    return records


def _append(path: Path, features: np.ndarray) -> None:
    with explained(path), path.open("ab") as handle:
        handle.write(np.ascontiguousarray(features, dtype=np.float32).tobytes())
        handle.flush()
        os.fsync(handle.fileno())


def _decode_ahead(
    encoded: Iterator[EncodedImage], seen: set[bytes] | None, pool: ThreadPoolExecutor
) -> Iterator[DecodedImage]:
    """Give journal records with their images, decoded a batch ahead by the pool."""
    while ahead := list(islice(encoded, BATCH)):
        decoded = [pool.submit(_attempt, image.data) for image in ahead]
        for source, future in zip(ahead, decoded, strict=True):
            digest = hashlib.sha256(source.data).digest()
            record: dict[str, Any] = {"position": source.position, "key": source.key, "prompt": source.prompt}
            record["sha256"] = digest.hex()
            if seen is not None and digest in seen:
                yield {**record, "repeats": True}, None
                continue
            image, error = future.result()
            if error is not None:
                yield {**record, "error": error}, None
                continue
            if seen is not None:
                seen.add(digest)
            yield record, image


def _attempt(data: bytes) -> tuple[Image.Image | None, str | None]:
    try:
        found = read(data, "it")
    except UserError as error:
        what = error.what.removeprefix("it is ").removeprefix("it ")
        return None, what if error.found is None else f"{what}: {error.found}"
    found.image.format = found.format
    return found.image, None


def _first(decoded: Iterator[DecodedImage], limit: int | None) -> Iterator[DecodedImage]:
    """End after `limit` images that count."""
    images = 0
    while images != limit and (one := next(decoded, None)) is not None:
        images += one[1] is not None
        yield one


def _batches(decoded: Iterator[DecodedImage]) -> Iterator[list[DecodedImage]]:
    """Group by `BATCH` images that count, fewer in the last group."""
    batch: list[DecodedImage] = []
    images = 0
    for one in decoded:
        batch.append(one)
        images += one[1] is not None
        if images == BATCH:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch
