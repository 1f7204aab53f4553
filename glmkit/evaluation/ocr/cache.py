"""Recognized lines of the images of a run; no content is recognized twice (`result_store`).

An image is known by its content, the engine with its weights, and the longest answer that was allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.evaluation.ocr.lines import EngineIdentity, OcrError, OcrResult, RecognizedLine
from glmkit.evaluation.ocr.process import recognize_images
from glmkit.evaluation.result_store import Key, ResultStore
from glmkit.hashing import file_sha256
from glmkit.progress import progress_bars
from glmkit.records import Generation
from glmkit.shapes import check_shape

FILE = "recognized_lines.jsonl"


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
    store = ResultStore(folder / FILE, "recognized_lines", identity.key, "max_tokens", "lines", _encode, _decode)
    files = {image.id: folder / image.file for image in generations if image.file}
    keys: dict[str, Key] = {
        image.id: (file_sha256(files[image.id]), max_tokens[image.prompt_id]) for image in generations if image.file
    }
    results: dict[Key, OcrResult] = {**store.find(keys.values())}
    distinct = {key: files[name] for name, key in keys.items() if key not in results}
    key_of = {path: key for key, path in distinct.items()}
    for path, result in _recognize_new({path: int(most) for path, (_, most) in key_of.items()}, engine):
        key = key_of[path]
        results[key] = result
        if not isinstance(result, OcrError):
            store.add(key, result)
    return {name: results[key] for name, key in keys.items()}


def _recognize_new(images: Mapping[Path, int], engine: str) -> Iterator[tuple[Path, OcrResult]]:
    """Recognize images (file -> longest answer) with a progress bar; none costs nothing."""
    if images:
        with progress_bars() as progress:
            yield from progress.track(recognize_images(images, engine), len(images), description="recognizing text")


def _encode(lines: tuple[RecognizedLine, ...]) -> list[dict[str, Any]]:
    return [line.to_dict() for line in lines]


def _decode(values: Any) -> tuple[RecognizedLine, ...]:
    check_shape(values, list[Any], FILE)
    return tuple(RecognizedLine.from_dict(line) for line in values)
