"""Work that several processes share through a folder: every unit is done once, and that of a killed process by another.

Processes are numbered by the launcher (`accelerate launch`, torchrun); they exchange nothing but lock files, which the
system frees when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar


class Named(Protocol):
    @property
    def name(self) -> str: ...


U = TypeVar("U", bound=Named)


@dataclass(frozen=True)
class Share:
    """Which of `count` processes this is; `local` counts on this machine."""

    index: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Share:
        """As the launcher says in RANK, WORLD_SIZE and LOCAL_RANK; one process without a launcher."""
        index, count, local = (int(os.environ.get(name, usual)) for name, usual in _VARIABLES)
        return cls(index, count, local)


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def units_of(units: Sequence[U], folder: Path, share: Share, missing: Callable[[U], bool]) -> Iterator[U]:
    """The units that this process has to do, each locked while it is done; ends when none is missing anywhere.

    Own units come first, then those that nobody is working on, then, one after another, those that were being worked
    on: whoever holds them finishes them or leaves them. A unit that is still missing after it was done here has
    failed, and is not given again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given: set[str] = set()
    own_first = sorted(range(len(units)), key=lambda number: ((number - share.index) % share.count, number))
    for wait in (False, True):
        for unit in (units[number] for number in own_first):
            if unit.name in given or not missing(unit):
                continue
            with _locked(folder / f"{unit.name}.lock", wait) as mine:
                if mine and missing(unit):
                    given.add(unit.name)
                    yield unit


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait while another process works alone in the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock", wait=True):
        yield


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
