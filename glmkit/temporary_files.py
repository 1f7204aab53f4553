"""Temporary files and folders: locked while they are written, removed when the process that wrote them has ended."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LEFTOVER = re.compile(r"\..*\.\d+\.tmp(\.\w+)?|\.tmp\w{6}")  # the second are those of safetensors
OWN_LEFTOVER = re.compile(r"\..*\.\d{16}\.tmp(\.\w+)?")  # made by `temporary_sibling` alone
STALE_SECONDS = 86400.0  # on a disk without locks; so long nothing is written
MAX_NAME_BYTES = 255
NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # of disks that have none
_cleaned: set[Path] = set()  # folders that this process has written into


def temporary_sibling(path: Path) -> Path:
    """Return a name beside `path` that no other process, on no other machine, takes."""
    tail = f".{secrets.randbelow(9 * 10**15) + 10**15}.tmp{path.suffix}"
    room = max(0, MAX_NAME_BYTES - 1 - len(os.fsencode(tail)))
    stem = path.stem.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
    return path.parent / f".{stem}{tail}"


@contextmanager
def locked_temporary(temporary: Path, *, is_folder: bool) -> Iterator[None]:
    """Make an empty file or folder, locked so that others see that it is being written; the system frees the lock."""
    # Under this name nothing is taken for stale before it has its lock.
    unlocked = temporary.with_name(f".{secrets.token_hex(8)}.new")
    if is_folder:
        unlocked.mkdir()
    else:
        os.close(os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    with _locked(unlocked):
        unlocked.rename(temporary)
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if fcntl is None:  # Windows renames nothing that is open
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a disk without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_stale(path: Path) -> bool:
    """Tell whether the process that wrote a temporary file or folder has ended."""
    if path.is_symlink():
        return False
    if fcntl is not None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:
            pass
        finally:
            os.close(descriptor)
    return time.time() - path.stat().st_mtime > STALE_SECONDS


def flush_to_disk(file: Path) -> None:
    """Wait until the disk holds a file."""
    descriptor = os.open(file, os.O_RDWR if fcntl is None else os.O_RDONLY)  # Windows flushes what may be written
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left in `folder`, once for this process; what others still write stays."""
    if folder in _cleaned:
        return
    _cleaned.add(folder)
    with suppress(OSError):
        for entry in os.scandir(folder):
            if OWN_LEFTOVER.fullmatch(entry.name) and _is_stale(Path(entry.path)):
                _remove(Path(entry.path))


def remove_temporaries(folder: Path) -> None:
    """Remove all temporary files anywhere in `folder`, also those that are being written."""
    for path in [path for path in folder.rglob(".*tmp*") if LEFTOVER.fullmatch(path.name)]:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, a folder, or a link, but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
