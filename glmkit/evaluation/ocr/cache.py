"""Recognized lines of the images of a run, stored twice: in the run folder, and in a cache that all runs share.

An image is known by its content, the engine with its weights, and the longest answer that was allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import EngineIdentity, OcrError, OcrResult, RecognizedLine
from glmkit.evaluation.ocr.process import recognize_images
from glmkit.files import append_jsonl, cache_folder, read_json, read_jsonl, write_json
from glmkit.hashing import file_sha256
from glmkit.progress import progress_bars
from glmkit.records import Generation
from glmkit.shapes import check_shape

FILE = "recognized_lines.jsonl"
ImageKey = tuple[str, int]  # sha256 of an image, tokens that the answer may have


class StoredLines(TypedDict):
    """One line of the run's `FILE`."""

    sha256: str
    max_tokens: int
    engine: str
    lines: list[Any]


def recognize(
    folder: Path,
    generations: Sequence[Generation],
    engine: str,
    identity: EngineIdentity,
    max_tokens: Mapping[str, int],
) -> dict[str, OcrResult]:
    """Map image ids to recognized lines, or to why OCR failed; `max_tokens` maps a prompt id to the longest answer.

    Content that any run has had before is not recognized again. The lines of every image are one line of the run's
    `FILE`.
    """
    files = {image.id: folder / image.file for image in generations if image.file}
    keys = {
        image.id: (file_sha256(files[image.id]), max_tokens[image.prompt_id]) for image in generations if image.file
    }
    results: dict[ImageKey, OcrResult] = {**_of_run(folder, identity)}
    missing = [key for key in dict.fromkeys(keys.values()) if key not in results]
    cached = {key: lines for key in missing if (lines := _of_cache(key, identity)) is not None}
    if cached:
        _append(folder, cached, identity)
    results |= cached
    distinct = {key: files[name] for name, key in keys.items() if key not in results}
    key_of = {path: key for key, path in distinct.items()}
    for path, result in _recognize_new({path: most for path, (_, most) in key_of.items()}, engine):
        key = key_of[path]
        results[key] = result
        if not isinstance(result, OcrError):
            _append(folder, {key: result}, identity)
            write_json(_cache_file(key, identity), [line.to_dict() for line in result])
    return {name: results[key] for name, key in keys.items()}


def _recognize_new(images: Mapping[Path, int], engine: str) -> Iterator[tuple[Path, OcrResult]]:
    """Recognize images (file -> longest answer) with a progress bar; none costs nothing."""
    if images:
        with progress_bars() as progress:
            yield from progress.track(recognize_images(images, engine), len(images), description="recognizing text")


def _of_run(folder: Path, identity: EngineIdentity) -> dict[ImageKey, tuple[RecognizedLine, ...]]:
    """Read what the run folder holds of this engine."""
    path = folder / FILE
    results = {}
    for record in read_jsonl(path, partial=True) if path.exists() else []:
        with suppress(UserError):  # a line that is damaged is recognized again
            check_shape(record, StoredLines, FILE)
            if record["engine"] == identity.key:
                results[record["sha256"], record["max_tokens"]] = _lines(record["lines"])
    return results


def _lines(values: Sequence[Any]) -> tuple[RecognizedLine, ...]:
    return tuple(RecognizedLine.from_dict(line) for line in values)


def _append(folder: Path, results: Mapping[ImageKey, tuple[RecognizedLine, ...]], identity: EngineIdentity) -> None:
    records = [
        {"sha256": sha256, "max_tokens": most, "engine": identity.key, "lines": [line.to_dict() for line in lines]}
        for (sha256, most), lines in results.items()
    ]
    append_jsonl(folder / FILE, *records)


def _of_cache(key: ImageKey, identity: EngineIdentity) -> tuple[RecognizedLine, ...] | None:
    with suppress(UserError):  # a file that is missing or damaged is made again
        values = read_json(_cache_file(key, identity))
        check_shape(values, list[Any], FILE)
        return _lines(values)
    return None


def _cache_file(key: ImageKey, identity: EngineIdentity) -> Path:
    sha256, most = key
    return cache_folder() / "recognized_lines" / identity.key / sha256[:2] / f"{sha256}-{most}.json"
