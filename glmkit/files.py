"""Files that exist are complete: write under a temporary name, then rename."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.text import decode, parse_json

LEFTOVER = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")
FULL_BYTES = 1 << 16  # a disk with less free space counts as full when a write has just failed
MAX_TEXT_BYTES = 2**30


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block ends without an error.

    The temporary name keeps the suffix of `path`, so libraries that look at it write the right format.
    Raises UserError when the disk is full or the folder cannot be written; the old file, if any, stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary siblings that a killed process left directly in `folder`, which no other process writes."""
    for path in folder.glob(".*.tmp*"):
        if LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors into UserError when writing `path` fails because the disk is full or the folder cannot be written.

    Whatever was written must still be there when the block ends: torch and safetensors do not say that the disk is
    full, it is seen.
    """
    try:
        yield
    except OSError as error:
        _explain(path, error)
        raise
    except UserError:
        raise
    except Exception as error:
        if shutil.disk_usage(path.parent).free < FULL_BYTES:
            raise _no_space(path) from error
        raise


def _no_space(path: Path) -> UserError:
    return UserError(f"no space left while writing {path}", fix="free some space and run the same command again")


def _explain(path: Path, error: OSError) -> None:
    """Raise what the user can do about a failed write; return when it is not for the user to mend."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise _no_space(path) from error
    if error.errno in (errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        raise UserError(f"cannot write {path}: {error.strerror}", fix="choose a folder that can be written") from error


def read_regular(path: str | Path, name: str, limit: int) -> bytes:
    """Read a whole regular file; UserError with its name when it is missing, something else, or over `limit` bytes.

    Pipes, devices and sockets are refused before they are opened: reading them may never end.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if path.is_dir() else "a pipe, a device or a socket"
            raise UserError(f"{name} cannot be read", found=kind, fix="use a regular file")
        if status.st_size > limit:
            raise UserError(f"{name} is too large", found=f"{status.st_size:,} bytes", fix=f"at most {limit:,}")
        return path.read_bytes()
    except FileNotFoundError as error:
        found = f"a link to {path.readlink()}, which is not there" if path.is_symlink() else None
        raise UserError(f"{name} does not exist", found=found, fix="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise UserError(f"{name} cannot be read", found=getattr(error, "strerror", None) or error) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def read_text(path: str | Path, limit: int = MAX_TEXT_BYTES) -> str:
    """Read a text file of at most `limit` bytes in any encoding that `text.decode` reads."""
    return decode(read_regular(path, str(path), limit), str(path))


def read_json(path: str | Path) -> Any:
    """Read a JSON file; UserError when it is missing or broken."""
    return parse_json(read_text(path), str(path))


def write_jsonl(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        for record in records:
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def append_jsonl(path: str | Path, *records: dict[str, Any]) -> None:
    """Append JSON objects as lines and flush them to the disk, so that a killed run loses at most these lines.

    A last line that an earlier kill left unfinished is closed first; `read_jsonl(partial=True)` skips it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as handle:
            if handle.tell() > 0:
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":
                    handle.write(b"\n")
            handle.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode("utf-8"))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        _explain(path, error)
        raise


def read_jsonl(path: str | Path, *, partial: bool = False) -> list[dict[str, Any]]:
    """Read a JSONL file, or a JSON file with one list. `partial` skips lines that a kill left unfinished; otherwise
    they are a UserError.
    """
    text = read_regular(path, str(path), MAX_TEXT_BYTES).decode(errors="replace") if partial else read_text(path)
    if not partial and text.lstrip().startswith("["):
        return _objects(parse_json(text, str(path)), str(path))
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name = f"{path}, line {number}"
        try:
            records += _objects([parse_json(line, name)], name, line)
        except UserError:
            if not partial:
                raise
    return records


def _objects(values: list[Any], name: str, line: str = "") -> list[dict[str, Any]]:
    for value in values:
        if not isinstance(value, dict):
            raise UserError(f"{name} is not a JSON object", found=(line or repr(value))[:80])
    return values
