"""What OCR read in the images of a run, kept twice: in the run folder, and in a cache that all runs share.

An image is known by its content, the engine with its weights, and the longest answer that was allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from glmkit.evaluation.ocr.process import Identity, Line, ReadError, read_all
from glmkit.files import append_jsonl, read_json, read_jsonl, write_json
from glmkit.hashing import file_sha256
from glmkit.records import Generation
from glmkit.runs import cache_folder

Reading = tuple[Line, ...] | ReadError
Content = tuple[str, int]  # sha256 of an image, tokens that the answer may have


def readings(
    folder: Path, generations: Sequence[Generation], engine: str, identity: Identity, tokens: Mapping[str, int]
) -> dict[str, Reading]:
    """Image id -> its lines, or why they could not be read; `tokens` maps a prompt id to the longest answer.

    Content that any run has read before is not read again. Every reading is a line of the run's readings.jsonl.
    """
    files = {row.id: folder / row.file for row in generations if row.file}
    contents = {row.id: (file_sha256(files[row.id]), tokens[row.prompt_id]) for row in generations if row.file}
    known: dict[Content, Reading] = {**_journal(folder, identity)}
    missing = [content for content in dict.fromkeys(contents.values()) if content not in known]
    remembered = {content: lines for content in missing if (lines := _remembered(content, identity)) is not None}
    if remembered:
        _note(folder, remembered, identity)
    known |= remembered
    unread = {content: files[name] for name, content in contents.items() if content not in known}
    by_file = {path: content for content, path in unread.items()}
    asked = {path: most for path, (_, most) in by_file.items()}
    results = read_all(asked, engine) if asked else ()
    for path, result in track(results, "reading", len(asked), console=Console(stderr=True), disable=not asked):
        content = by_file[path]
        known[content] = result
        if not isinstance(result, ReadError):
            _note(folder, {content: result}, identity)
            write_json(_memory(content, identity), [line.to_dict() for line in result])
    return {name: known[content] for name, content in contents.items()}


def _journal(folder: Path, identity: Identity) -> dict[Content, tuple[Line, ...]]:
    journal = folder / "readings.jsonl"
    rows = read_jsonl(journal, partial=True) if journal.exists() else []
    return {
        (row["sha256"], row["tokens"]): tuple(Line.from_dict(line) for line in row["lines"])
        for row in rows
        if row["engine"] == identity.key
    }


def _note(folder: Path, found: Mapping[Content, tuple[Line, ...]], identity: Identity) -> None:
    rows = [
        {"sha256": digest, "tokens": tokens, "engine": identity.key, "lines": [line.to_dict() for line in lines]}
        for (digest, tokens), lines in found.items()
    ]
    append_jsonl(folder / "readings.jsonl", *rows)


def _remembered(content: Content, identity: Identity) -> tuple[Line, ...] | None:
    path = _memory(content, identity)
    return tuple(Line.from_dict(line) for line in read_json(path)) if path.exists() else None


def _memory(content: Content, identity: Identity) -> Path:
    digest, tokens = content
    return cache_folder() / "readings" / identity.key / digest[:2] / f"{digest}-{tokens}.json"
