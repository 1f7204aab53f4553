"""sha256 of weight files, which are large: a file that has not changed is not read again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from glmkit.files import read_json, write_json
from glmkit.runs import cache_folder


def sha256_of(path: Path) -> str:
    """The sha256 of a file, remembered by its path, size and time of change."""
    real = path.resolve()
    status = real.stat()
    known = f"{real}\0{status.st_size}\0{status.st_mtime_ns}"
    note = cache_folder() / "hashes" / f"{hashlib.sha256(known.encode()).hexdigest()}.json"
    if note.exists():
        return str(read_json(note)["sha256"])
    with real.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    write_json(note, {"path": str(real), "sha256": digest})
    return digest
