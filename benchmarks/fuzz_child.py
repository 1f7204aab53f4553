"""The child of `fuzz.py` in which a command runs: its limits, and how it ended."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

MEMORY, FILE_SIZE, FILES = 8 << 30, 1 << 29, 512
CPU_SECONDS, SECONDS, IDLE_SECONDS = 45, 240, 10  # IDLE: without work, waiting for something that never comes
BUG = 70  # exit code of an exception that was not caught


def run_child(work: Callable[[], int | None], lab: Path, env: Mapping[str, str]) -> tuple[int, str | None]:
    """Do `work` in a child with `lab` as its folder; returns its exit code, and how it ended if not by itself."""
    answers = lab.with_suffix(".in")
    answers.write_text("y\n" * 9)
    stdin = os.open(answers, os.O_RDONLY)  # parent and child share its position: who asks is found out
    child = os.fork()
    if child == 0:
        _become(lab, env, stdin, work)
    ending = _wait(child)
    _, status = os.waitpid(child, 0)
    time.sleep(0.01)
    orphans = _alive(child)
    _kill(child)
    asked = os.lseek(stdin, 0, os.SEEK_CUR)
    os.close(stdin)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return -number, ending or ("hang" if number == signal.SIGXCPU else f"signal {signal.Signals(number).name}")
    return os.WEXITSTATUS(status), "asks on the terminal" if asked else "orphan" if orphans else None


def _become(lab: Path, env: Mapping[str, str], stdin: int, work: Callable[[], int | None]) -> None:
    """Be the child: never returns."""
    code = BUG
    try:
        os.setsid()
        faulthandler.disable()  # the parent's would write about a signal to a file that is not the child's
        os.chdir(lab)
        os.environ.update({"GLMKIT_CACHE": str(lab / "cache"), "HOME": str(lab / "cache"), **env})
        for kind, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILE_SIZE)):
            resource.setrlimit(kind, (limit, limit))
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        os.dup2(stdin, 0)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(lab.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        code = work() or 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> str | None:
    """Wait for a child; kill it when it hangs. Returns how, None when it ended by itself."""
    started = worked = time.monotonic()
    ticks = -1
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.02)
        now = time.monotonic()
        if (spent := _ticks(child)) != ticks:
            ticks, worked = spent, now
        if now - worked > IDLE_SECONDS or now - started > SECONDS:
            _kill(child)
            return "hang"
    return None


def _alive(group: int) -> list[int]:
    """Return the processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def _ticks(group: int) -> int:
    total = 0
    for process in _alive(group):
        try:
            total += sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]))
        except OSError:
            continue
    return total


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
