"""Content hashes: one function each for JSON values, files, files too large to read often, and whole folders."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.files import MAX_TEXT_BYTES, cache_folder, check_regular, read_json, write_json

FOR_PEOPLE = (".md", ".png", ".jpg", ".webp", ".svg")  # files of a model folder that decide nothing
TEXTS = (".json", ".jsonl", ".txt", ".csv", ".yaml", ".yml", ".jinja")  # the readers of these have a limit
MADE_BY = "made_by.json"  # in a model folder that training writes into: the run that made it, no content either
LARGE_BYTES = 1 << 26  # files above are remembered one by one, also where another file of their folder changes
STABLE_NS = 2 * 10**9


def json_sha256(value: Any) -> str:
    """Hash a JSON value, whatever the order of its keys: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path, limit: int | None = MAX_TEXT_BYTES) -> str:
    """Hash a whole file: 64 hexadecimal digits.

    UserError for a pipe or a device, whose reading may never end, and for more than `limit` bytes: no reader takes a
    text or an image that is larger.
    """
    check_regular(path, str(path), limit)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def large_file_sha256(path: Path) -> str:
    """Hash a file of weights once: the digest is remembered while the file is not touched."""
    return remembered([path], "sha256", lambda: file_sha256(path, limit=None))


def remembered(files: Iterable[Path], purpose: str, compute: Callable[[], str]) -> str:
    """Return what `compute` finds in large files; the answer is kept until one has another path, size or time.

    Files that changed just now are read again next time: a change in the same tick of the disk's clock leaves no trace.
    """
    files = [path.resolve() for path in files]
    states = [_state(path) for path in files]
    record = cache_folder() / "hashes" / f"{json_sha256([purpose, *states])}.json"
    with suppress(UserError, KeyError, TypeError):  # a record that is missing or broken is made again
        return str(read_json(record)["sha256"])
    now = time.time_ns()
    value = compute()
    stable = all(max(times) < now - STABLE_NS for *_, times in states)
    if stable and states == [_state(path) for path in files]:
        with suppress(UserError, OSError):  # without a cache it takes longer
            write_json(record, {"files": list(map(str, files)), "purpose": purpose[:80], "sha256": value})
    return value


def _state(path: Path) -> tuple[str, int, int, tuple[int, int]]:
    status = path.stat()
    return str(path), status.st_ino, status.st_size, (status.st_mtime_ns, status.st_ctime_ns)


def fingerprint(path: str | Path, passed_over: tuple[str, ...] = FOR_PEOPLE) -> str:
    """Name the content of a file or folder in 16 hexadecimal digits, so that a run notices weights that changed.

    Links count as what they lead to. What only people look at (README.md, images beside it) does not count, nor who
    made it, nor hidden files. UserError for a text that is larger than any reader takes.
    """
    path = Path(path)
    files = {"": path} if path.is_file() else _content(path, passed_over)
    # By parts: paths themselves sort without regard to case on Windows.
    names = sorted(files, key=lambda name: name.split("/"))

    def compute() -> str:
        return json_sha256([[name, _sha256(files[name])] for name in names])

    return remembered([files[name] for name in names], f"content {json_sha256(names)}", compute)[:16]


def _sha256(path: Path) -> str:
    is_small = path.stat().st_size <= LARGE_BYTES or path.suffix.lower() in TEXTS
    return file_sha256(path) if is_small else large_file_sha256(path)


def _content(folder: Path, passed_over: tuple[str, ...], above: frozenset[str] = frozenset()) -> dict[str, Path]:
    """Return the files of a folder by their names in it. A link to a folder above itself is not followed."""
    files: dict[str, Path] = {}
    above |= {os.path.realpath(folder)}
    for path in folder.iterdir():
        if path.name[0] == "." or path.name == MADE_BY or path.suffix in passed_over or os.path.realpath(path) in above:
            continue
        if path.is_dir():
            files |= {f"{path.name}/{name}": file for name, file in _content(path, passed_over, above).items()}
        elif path.is_file():
            files[path.name] = path
    return files
