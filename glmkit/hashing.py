"""Content hashes: one function each for JSON values, files, files too large to read often, and whole folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from glmkit.files import read_json, write_json
from glmkit.runs import cache_folder

FOR_PEOPLE = (".md", ".png")  # files of a model folder that decide nothing
MADE_BY = "made_by.json"  # in a model folder that training writes into: the run that made it, no content either
_EDGE_BYTES = 1 << 16


def json_sha256(value: Any) -> str:
    """Hash a JSON value, whatever the order of its keys: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash the whole content of a file: 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def large_file_sha256(path: Path) -> str:
    """Hash a file of weights once: the digest is remembered by its path, size and time of change."""
    real = path.resolve()
    status = real.stat()
    state = f"{real}\0{status.st_size}\0{status.st_mtime_ns}"
    record = cache_folder() / "hashes" / f"{hashlib.sha256(state.encode()).hexdigest()}.json"
    if record.exists():
        return str(read_json(record)["sha256"])
    digest = file_sha256(real)
    write_json(record, {"path": str(real), "sha256": digest})
    return digest


def fingerprint(path: str | Path) -> str:
    """Name the content of a file or folder in 16 hexadecimal digits, so that a run notices weights that changed.

    Reads each file's size and its first and last 64 KiB only: checkpoints are large, and training changes both ends.
    What only people look at (README.md, images beside it) does not count, nor who made it.
    """
    path = Path(path)
    if path.is_file():
        files = [path]
    else:
        # By parts: paths themselves sort without regard to case on Windows.
        every = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.parts)
        files = [file for file in every if file.suffix not in FOR_PEOPLE and file.name != MADE_BY]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        with file.open("rb") as handle:
            digest.update(handle.read(_EDGE_BYTES))
            handle.seek(max(0, size - _EDGE_BYTES))
            digest.update(handle.read(_EDGE_BYTES))
    return digest.hexdigest()[:16]
