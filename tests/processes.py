"""Processes of a launcher: started by torchrun, or forked from the tests, which have imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# The command line, with the OCR engine that the environment calls ENGINE. A process whose environment says DIES_AT dies
# at that write to the disk: before the n-th file gets its name, or before the n-th line of a journal is safe.
PROGRAM = """
import fcntl, os, signal, sys
from glmkit.evaluation import plan
plan.DEFAULT_ENGINE = os.environ.get("ENGINE", plan.DEFAULT_ENGINE)
writes = 0
def is_journal(descriptor):  # other files are flushed, read-only, just before they get their names
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
def dying(function, counts=lambda *_: True):
    def call(*given):
        global writes
        writes += counts(*given)
        if counts(*given) and writes == int(os.environ.get("DIES_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given)
    return call
os.replace, os.fsync = dying(os.replace), dying(os.fsync, is_journal)
from glmkit.cli import main
sys.exit(main(sys.argv[1:]))
"""
TORCHRUN = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port")


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start_dying(cache: Path, *command: object, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, command)],
        env={**os.environ, "GLMKIT_CACHE": str(cache), **environment},
        stdout=subprocess.DEVNULL,
    )


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], check=False, capture_output=True, text=True, timeout=300)


def _be(rank: int, port: str, out: Path, target: Callable[[int], int]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with out.open("w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        sys.exit(target(rank))


def fork_two(target: Callable[[int], int], folder: Path, seconds: float = 60) -> tuple[list[int | None], list[str]]:
    """Call `target(rank)` in two forked processes; returns the exit codes (None: still there), and what they wrote."""
    context, port = multiprocessing.get_context("fork"), free_port()
    files = [folder / f"rank{rank}.txt" for rank in range(2)]
    both = [context.Process(target=_be, args=(rank, port, out, target)) for rank, out in enumerate(files)]
    for process in both:
        process.start()
    for process in both:
        process.join(seconds)
    codes = [process.exitcode for process in both]
    for process in both:
        process.kill()
    return codes, [out.read_text() for out in files]
