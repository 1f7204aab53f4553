"""Work that several processes share through a folder: each item is done once, that of a killed process by another.

The processes exchange nothing but lock files, which the system frees when a process ends, however it ends.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.files import explained, make_folder

LOCK = ".lock"
PROCESS = ".process.lock"  # ends the names of files that processes hold as long as they work in a folder
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what network disks without locks answer

T = TypeVar("T")


@dataclass(frozen=True)
class WorkItem(Generic[T]):
    """Something to do, under a name that is a file name and the same in every process."""

    name: str
    payload: T


def claim_items(
    items: Sequence[WorkItem[T]], folder: Path, group: ProcessGroup, is_missing: Callable[[T], bool]
) -> Generator[T, None, None]:
    """Yield the payloads that this process has to do, each locked meanwhile; end when none is missing anywhere.

    Items of this rank come first, then those that no one is working on, then, one after another, those that were
    being worked on: the process that holds them finishes or leaves them. An item that is still missing after it was
    done here has failed, and is not yielded again. A process that finds nothing missing may remove the folder.
    """
    make_folder(folder)
    yielded: set[str] = set()
    order = sorted(range(len(items)), key=lambda number: ((number - group.rank) % group.world_size, number))
    for wait in (False, True):
        for item in (items[number] for number in order):
            if item.name in yielded or not is_missing(item.payload):
                continue
            with _claim(folder / f"{item.name}.lock", wait) as acquired:
                if acquired and is_missing(item.payload):
                    yielded.add(item.name)
                    yield item.payload


@contextmanager
def exclusive(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Let one process at a time into this block with the same folder; the others wait, or get a UserError."""
    acquired = False
    while not acquired:  # another process may remove the folder
        make_folder(folder)
        with _claim(folder / LOCK, wait) as acquired:
            if acquired:
                yield
            elif not wait:
                raise UserError(
                    f"another process is working in {folder}", fix="wait until it has ended, or choose another folder"
                )


@contextmanager
def participating(folder: Path) -> Iterator[None]:
    """Be one of the processes that work in `folder`: `remove_work` leaves it alone until the last one has ended."""
    with exclusive(folder), ExitStack() as stack:
        path = folder / f"{secrets.token_hex(8)}{PROCESS}"
        stack.enter_context(_claim(path, wait=True))
        leave = stack.pop_all()
    with leave:
        yield
    with suppress(OSError):
        path.unlink()


def remove_work(folder: Path, is_work: Callable[[Path], bool]) -> None:
    """Remove the files for which `is_work` holds, all locks, and the folder if nothing else is in it.

    Nothing happens while other processes work in it, which need these files.
    """
    with exclusive(folder):
        for path in folder.glob(f"*{PROCESS}"):
            with _claim(path, wait=False) as acquired:
                if not acquired:
                    return
        for path in folder.iterdir():
            is_lock = path.name.endswith(".lock") and not path.is_symlink() and not path.stat().st_size
            if path.name != LOCK and (is_lock or path.name.endswith(".lock.soft") or is_work(path)):
                with suppress(OSError):
                    path.unlink()
        with suppress(OSError):  # Windows removes no file that is open, but below
            (folder / LOCK).unlink()
            folder.rmdir()
            return
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def _claim(path: Path, wait: bool) -> Iterator[bool]:
    lock = _locked(path, wait)
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _locked(path: Path, wait: bool) -> BaseFileLock | None:
    """Take a lock; None when another holds it, or when one that found nothing missing removed the folder."""
    # Not thread-local: a generator that holds a lock may be closed by another thread.
    options: dict[str, Any] = {"timeout": -1 if wait else 0, "thread_local": False}
    lock: BaseFileLock = FileLock(path, **options)
    with explained(path):
        try:
            try:
                lock.acquire()
            except (OSError, NotImplementedError) as error:
                if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                    raise
                # A file that exists while the lock is held does instead; that of a killed process is noticed.
                lock = SoftFileLock(path.with_name(f"{path.name}.soft"), **options)
                lock.acquire()
        except (Timeout, FileNotFoundError):
            return None
    return lock
