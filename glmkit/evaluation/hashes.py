"""sha256 of files; of weights, which are large, only when they have changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from glmkit.files import read_json, write_json
from glmkit.runs import cache_folder


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_of_weights(path: Path) -> str:
    """The sha256 of a large file, remembered by its path, size and time of change."""
    real = path.resolve()
    status = real.stat()
    known = f"{real}\0{status.st_size}\0{status.st_mtime_ns}"
    note = cache_folder() / "hashes" / f"{hashlib.sha256(known.encode()).hexdigest()}.json"
    if note.exists():
        return str(read_json(note)["sha256"])
    digest = sha256(real)
    write_json(note, {"path": str(real), "sha256": digest})
    return digest
