"""Work that processes share: each item once, that of a killed process by another, threads of one process included."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.distributed.work_queue import WorkItem, claim_items, exclusive
from glmkit.errors import UserError
from glmkit.files import write_json

ITEMS = [WorkItem(str(number), number) for number in range(6)]


def test_ranks_begin_at_other_items(tmp_path: Path) -> None:
    done: set[int] = set()

    def claimed(group: ProcessGroup) -> list[int]:
        return list(claim_items(ITEMS, tmp_path, group, lambda number: number not in done))

    assert claimed(ProcessGroup(1, 3)) == [1, 4, 2, 5, 0, 3]
    done |= {0, 1, 4}
    assert claimed(SINGLE_PROCESS) == [2, 3, 5]


def test_an_item_that_is_locked_comes_last(tmp_path: Path) -> None:
    done: set[int] = set()
    first = claim_items(ITEMS, tmp_path, SINGLE_PROCESS, lambda number: number not in done)
    assert next(first) == 0
    second = claim_items(ITEMS, tmp_path, SINGLE_PROCESS, lambda number: number not in done)
    others = [next(second) for _ in range(5)]
    assert others == [1, 2, 3, 4, 5]
    done |= {0, *others}
    first.close()
    assert list(second) == []


class LockOfAFolderThatVanishes(FileLock):
    """Opens its file right after another process, which found nothing missing, removed the folder."""

    def acquire(self, *_: object, **__: object) -> NoReturn:
        shutil.rmtree(Path(self.lock_file).parent, ignore_errors=True)
        os.open(self.lock_file, os.O_RDWR)
        raise AssertionError("there is no such file")


def test_a_folder_that_a_finished_process_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glmkit.distributed.work_queue.FileLock", LockOfAFolderThatVanishes)
    assert list(claim_items(ITEMS, tmp_path / "work", SINGLE_PROCESS, lambda _: True)) == []


HOLDING = """
import sys, time
from pathlib import Path
from glmkit.distributed.work_queue import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    with exclusive(tmp_path):
        assert time.monotonic() - started < 5


def test_a_folder_that_another_process_works_in(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"another process is working in {tmp_path}"),
            exclusive(tmp_path, wait=False),
        ):
            pass
        process.kill()


@pytest.mark.parametrize("name", [".lock", "0.lock"])
def test_a_lock_that_is_a_link_keeps_its_target(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(victim)

    def lock() -> None:
        with exclusive(tmp_path / "run"):
            list(claim_items(ITEMS, tmp_path / "run", SINGLE_PROCESS, lambda _: True))

    with pytest.raises(UserError, match="remove this link"):
        lock()
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Network disks answer so; a file that is there while the lock is held does instead."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path), pytest.raises(UserError, match="another process"), exclusive(tmp_path, wait=False):
        pass
    with exclusive(tmp_path, wait=False):
        pass
    write_json(tmp_path / "a.json", {})


def test_a_place_without_locks_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can be written"), exclusive(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="can be written"):
        list(claim_items(ITEMS, tmp_path / "file", SINGLE_PROCESS, lambda _: True))
