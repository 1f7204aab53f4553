"""Work that several processes share through a folder: each item is done once, that of a killed process by another.

The processes exchange nothing but lock files, which the system frees when a process ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock, Timeout

from glmkit.distributed.process_group import ProcessGroup

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
    folder.mkdir(parents=True, exist_ok=True)
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
def exclusive(folder: Path) -> Iterator[None]:
    """Wait while another process is in this block with the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


@contextmanager
def _claim(path: Path, wait: bool) -> Iterator[bool]:
    # Not thread-local: a generator that holds a lock may be closed by another thread.
    lock = FileLock(path, timeout=-1 if wait else 0, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError):  # held by another; or one that found nothing missing removed the folder
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
