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

TORCHRUN = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port")


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


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
