"""Files that exist are complete: write under a temporary name, then rename."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from glmkit.errors import UserError
from glmkit.temporary_files import flush_to_disk, locked_temporary, remove_stale, remove_temporaries, temporary_sibling
from glmkit.text import decode, parse_json

MAX_TEXT_BYTES = 2**30
PROBE_BYTES = 1 << 16  # that a disk must still take when a write has just failed and does not say why
ERRNO = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")  # of shutil and of safetensors, which keep it in a text
_SPACE = "free some space and run the same command again"
_PLACE = "choose a folder that can be written"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
INVALID_NAME = 123  # what Windows answers to a name with * or ?
FIXES = {
    **dict.fromkeys(NO_SPACE, _SPACE),
    errno.EFBIG: "a disk that takes larger files (FAT32 ends at 4 GiB), or ulimit -f unlimited",
    errno.ENAMETOOLONG: "a shorter name",
    errno.EROFS: _PLACE,
    errno.ELOOP: "remove this link, or choose another folder",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBUSY, errno.EINVAL), _PLACE),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), _PLACE),
    errno.ENOTEMPTY: "a folder that does not exist yet",
}


def cache_folder() -> Path:
    """Name the folder of work that several runs share: GLMKIT_CACHE, otherwise glmkit in the user's cache folder."""
    if folder := os.environ.get("GLMKIT_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glmkit"


def shareable_path(path: str) -> str:
    """Return a path without the folders that only this machine has: all but the last name of an absolute one.

    `RUN/adapter`, where fine-tuning puts its result, and the adapter of one component keep RUN.
    """
    pure = PureWindowsPath(path) if PureWindowsPath(path).is_absolute() else PurePosixPath(path)
    if not pure.is_absolute() and not path.startswith("~"):
        return path
    names = [name.partition(":")[0] for name in pure.parts]
    first = names.index("adapter") if "adapter" in names[2:] else len(names)
    return "/".join(pure.parts[first - 1 :])


@contextmanager
def atomic_path(path: str | Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block ends without an error.

    The temporary name keeps the suffix of `path`, so libraries that look at it write the right format.
    The disk holds the content before it has its name, so that a power cut leaves no empty file. That takes about 5 ms,
    little beside an image or a saved state; `flush=False` is for the thousands of small files whose reader makes again
    what is damaged.
    Raises UserError when the disk is full, the folder cannot be written, or a device has this name; what was there
    stays.
    """
    path = _named(path)
    _refuse_device(path)
    temporary = temporary_sibling(path)
    try:
        with explained(path, temporary):
            _make_parent(path)
            with locked_temporary(temporary, is_folder=False):
                yield temporary
                if flush:
                    flush_to_disk(temporary)
                os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new temporary sibling of `path`; rename it to `path` when the block ends without an error.

    Raises UserError as `atomic_path` does, and when `path` is there by then; `replace` takes its place.
    """
    path = _named(path)
    _refuse_device(path)
    temporary, old = temporary_sibling(path), temporary_sibling(path)
    try:
        with explained(path, temporary):
            _make_parent(path)
            with locked_temporary(temporary, is_folder=True):
                yield temporary
                for file in temporary.rglob("*"):
                    if file.is_file() and not file.is_symlink():
                        flush_to_disk(file)
                if replace and path.exists():
                    path.rename(old)
                temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder; move what `atomic_path` wrote in it to `folder`: all of it or, on errors, none."""
    temporary = temporary_sibling(_named(folder) / "files")
    try:
        with explained(folder, temporary):
            _make_parent(temporary)
            with locked_temporary(temporary, is_folder=True):
                yield temporary
                for file in sorted(temporary.iterdir()):
                    os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def called(path: Path, suffix: str, otherwise: str) -> str:
    """Return a path with another suffix as it is typed; `otherwise` for one without a name, such as "" and "/"."""
    return shlex.quote(str(path.with_suffix(suffix) if path.name else f"{otherwise}{suffix}"))


def _named(path: str | Path) -> Path:
    """Return a path; UserError when no file can have that name."""
    try:
        os.fsencode(path)
        if "\0" not in str(path):
            return Path(path)
        found = "a NUL character"
    except UnicodeEncodeError as error:
        found = error.reason
    raise UserError(f"{str(path)!r} is no name of a file", found=found, fix="another name")


def _refuse_device(path: Path) -> None:
    """Raise UserError for a device, or a link to one: a rename would put a file in its place for the whole system."""
    with suppress(OSError):
        if stat.S_ISCHR(mode := path.stat().st_mode) or stat.S_ISBLK(mode):
            raise UserError(f"cannot write {path}", found="a device", fix="the name of a file")


def _make_parent(path: Path) -> None:
    """Make the folder of `path`; when this process first writes there, remove what killed ones left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)


@contextmanager
def explained(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn errors into UserError when writing `path` fails because of the disk, the folder, or the name.

    `temporary` is what is being written; it must still be there when the block ends: torch does not say why a write
    failed, so that another one is tried.
    """
    try:
        yield
    except UserError as error:
        if temporary is None or str(temporary) not in error.what:
            raise
        what = error.what.replace(str(temporary), str(path))  # a file in a folder that has no name yet
        raise UserError(what, found=error.found, fix=error.fix) from error
    except Exception as error:
        number = _errno(error, temporary)
        if number is None or number not in FIXES or _is_elsewhere(error, path):
            raise
        what = f"no space left while writing {path}" if number in NO_SPACE else f"cannot write {path}"
        found = None if number in NO_SPACE else os.strerror(number)
        fix = FIXES[number]
        if path.is_relative_to(cache_folder()):
            fix += "; GLMKIT_CACHE=FOLDER puts the cache elsewhere"
        raise UserError(what, found=found, fix=fix) from error


def as_user_error(error: OSError) -> UserError | None:
    """Say what the user can do about a path that cannot be used; None when the error is about no path, or not theirs.

    For paths that are neither read nor written by this module.
    """
    if error.filename is None or error.errno not in FIXES:
        return None
    fix = FIXES[error.errno] if FIXES[error.errno] != _PLACE else "check the path and its rights"
    return UserError(f"cannot use {error.filename}", found=error.strerror, fix=fix)


def _errno(error: Exception, temporary: Path | None) -> int | None:
    """Find the number of the system's error behind a failed write."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if match := ERRNO.search(str(error)):
        return int(match[1] or match[2])
    if temporary is None or not isinstance(error, RuntimeError):
        return None
    files = [temporary] if temporary.is_file() else [path for path in temporary.rglob("*") if path.is_file()]
    try:
        with max(files, key=lambda path: path.stat().st_size, default=temporary).open("ab") as handle:
            handle.write(bytes(PROBE_BYTES))
    except OSError as probed:
        return probed.errno
    return None


def _is_elsewhere(error: Exception, path: Path) -> bool:
    """Tell whether an error is about another file than `path`, its temporary siblings and its parents."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return False
    named = Path(error.filename)
    return not named.is_relative_to(path.parent) and not path.is_relative_to(named)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left anywhere in `folder`, which no other process writes."""
    with explained(folder):
        remove_temporaries(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; UserError when that cannot be."""
    with explained(_named(folder)):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Raise UserError unless a file can be written there, before work is done for it; nothing is left behind."""
    _refuse_device(_named(path))
    with explained(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        folder = next(one for one in path.absolute().parents if exists(one))
        temporary = temporary_sibling(folder / path.name)
        temporary.touch()
        temporary.unlink()


def exists(path: Path) -> bool:
    """Tell whether a path leads to something; OSError when the system does not say, as without rights to its folder.

    `Path.exists` does so up to Python 3.13, and is False for every error from 3.14 on.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno in ABSENT or getattr(error, "winerror", None) == INVALID_NAME:
            return False
        raise
    except ValueError:  # a NUL character
        return False
    return True


def check_regular(path: Path, name: str, limit: int | None = None) -> int:
    """Return the size of a file; UserError with its name when it is something else, whose reading may never end.

    So it is when the file has more than `limit` bytes. OSError when it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if path.is_dir() else "a pipe, a device or a socket"
        raise UserError(f"{name} cannot be read", found=kind, fix="use a regular file")
    if limit is not None and status.st_size > limit:
        raise UserError(f"{name} is too large", found=f"{status.st_size:,} bytes", fix=f"at most {limit:,}")
    return status.st_size


def _json_bytes(value: Any, indent: int | None = None) -> bytes:
    """Return JSON and a line end; half a surrogate pair, which UTF-8 lacks, becomes an escape of JSON."""
    return (json.dumps(value, ensure_ascii=False, indent=indent) + "\n").encode("utf-8", "backslashreplace")


def read_regular(path: str | Path, name: str, limit: int) -> bytes:
    """Read a whole regular file; UserError with its name when it is missing, something else, or over `limit` bytes.

    Pipes, devices and sockets are refused before they are opened: reading them may never end.
    """
    path = Path(path)
    try:
        check_regular(path, name, limit)
        return path.read_bytes()
    except FileNotFoundError as error:
        found = f"a link to {path.readlink()}, which is not there" if path.is_symlink() else None
        raise UserError(f"{name} does not exist", found=found, fix="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{name} cannot be read", found=why, fix="check the path and its rights") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(_json_bytes(value, indent=2))


@contextmanager
def json_list(path: str | Path, value: Mapping[str, Any], name: str) -> Iterator[Callable[[Any], None]]:
    """Write an object as `write_json` does, with a list `name` as its last field; yield what adds an item to it."""
    start, _, end = _json_bytes({**value, name: []}, indent=2).rpartition(b"]")
    inside, separators = b"\n    ", chain([b""], repeat(b","))  # no text has a line feed of its own: JSON escapes it
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        handle.write(start)

        def add(item: Any) -> None:
            handle.write(next(separators) + inside + _json_bytes(item, indent=2).rstrip().replace(b"\n", inside))

        yield add
        handle.write((b"]" if next(separators) == b"" else b"\n  ]") + end)


def read_text(path: str | Path, limit: int = MAX_TEXT_BYTES) -> str:
    """Read a text file of at most `limit` bytes in any encoding that `text.decode` reads."""
    return decode(read_regular(path, str(path), limit), str(path))


def read_json(path: str | Path) -> Any:
    """Read a JSON file; UserError when it is missing or broken."""
    return parse_json(read_text(path), str(path))


def write_jsonl(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        handle.writelines(map(_json_bytes, records))


def append_jsonl(path: str | Path, *records: dict[str, Any]) -> None:
    """Append JSON objects as lines and flush them to the disk, so that a killed run loses at most these lines.

    A last line that an earlier kill left unfinished is closed first; `read_jsonl(partial=True)` skips it.
    """
    path = _named(path)
    with explained(path):
        _make_parent(path)
        with path.open("ab+") as handle:
            if handle.tell() > 0:
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":
                    handle.write(b"\n")
            handle.write(b"".join(map(_json_bytes, records)))
            handle.flush()
            os.fsync(handle.fileno())


def read_jsonl(path: str | Path, *, partial: bool = False) -> list[dict[str, Any]]:
    """Read a JSONL file, or a JSON file with one list or one object over several lines. `partial` skips lines that a
    kill left unfinished; otherwise they are a UserError.
    """
    return list(iterate_jsonl(path, partial=partial))


def iterate_jsonl(path: str | Path, *, partial: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what `read_jsonl` reads, one object after the other: all of them take several times the file's size."""
    text = read_regular(path, str(path), MAX_TEXT_BYTES).decode(errors="replace") if partial else read_text(path)
    first = _line(text, len(text) - len(text.lstrip())).strip()
    if not partial and (first.startswith("[") or first == "{"):
        try:
            value = parse_json(text, str(path))
        except UserError as error:
            fix = 'one object per line, or one list: [{"...": ...}, ...]' if first == "{" else error.fix
            raise UserError(error.what, found=error.found, fix=fix) from error
        yield from _objects(value if isinstance(value, list) else [value], str(path))
        return
    start, number = 0, 0
    while start <= len(text):
        line = _line(text, start)
        start, number = start + len(line) + 1, number + 1
        if not line.strip():
            continue
        name = f"{path}, line {number}"
        try:
            objects = _objects([parse_json(line, name)], name, line)
        except UserError as error:
            if not partial:
                fix = f'mend or remove line {number}; a line is one object: {{"...": ...}}'
                raise UserError(error.what, found=error.found, fix=fix) from error
        else:
            yield from objects


def _line(text: str, start: int) -> str:
    """Return the line that begins there, without its line feed."""
    stop = text.find("\n", start)
    return text[start:] if stop < 0 else text[start:stop]


def _objects(values: list[Any], name: str, line: str = "") -> list[dict[str, Any]]:
    for value in values:
        if not isinstance(value, dict):
            raise UserError(f"{name} is not a JSON object", found=(line or repr(value))[:80], fix='{"...": ...}')
    return values
