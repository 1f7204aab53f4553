"""Processes of a launcher: started by torchrun, or forked from the tests, which have imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from glmkit.runs import read_log

# The command line, with the OCR engine that the environment calls ENGINE. A process whose environment says DIES_AT dies
# at that write to the disk: before the n-th file gets its name, or before the n-th line of a journal is safe. DIES_IN
# names a step of training instead, as STAGE:NUMBER. NODE_DIES: the agent that has started it dies, too.
PROGRAM = """
import fcntl, os, signal, sys
from glmkit.distributed import shared_folder
from glmkit.evaluation import plan
shared_folder.SECONDS = 1.0
plan.DEFAULT_ENGINE = os.environ.get("ENGINE", plan.DEFAULT_ENGINE)
writes = 0
def die():
    if os.environ.get("NODE_DIES"):
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
def is_journal(descriptor):  # other files are flushed, read-only, just before they get their names
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
def dying(function, counts=lambda *_: True):
    def call(*given):
        global writes
        writes += counts(*given)
        if counts(*given) and writes == int(os.environ.get("DIES_AT", 0)):
            die()
        return function(*given)
    return call
os.replace, os.fsync = dying(os.replace), dying(os.fsync, is_journal)
if "DIES_IN" in os.environ:
    from glmkit.training.loop import Loop
    take_step, (stage, number) = Loop.take_step, os.environ["DIES_IN"].split(":")
    Loop.take_step = lambda loop: (
        die() if (loop.context.name, loop.step) == (stage, int(number)) else take_step(loop)
    )
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


def start_nodes(
    tmp_path: Path, *command: object, dies: Mapping[int, Mapping[str, str]] | None = None
) -> list[subprocess.Popen[bytes]]:
    """Start a command of glmkit in two agents of torchrun, each with a home, a cache and a working folder of its own.

    `dies` maps the number of an agent to what makes it die with its process.
    """
    program, tests = tmp_path / "program.py", Path(__file__).parent
    program.write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", free_port()]
    agents = []
    for rank in range(2):
        home = tmp_path / f"node{rank}"
        home.mkdir(exist_ok=True)
        own = {name: value for name, value in os.environ.items() if name not in ("GLMKIT_CACHE", "XDG_CACHE_HOME")}
        own |= {"HOME": str(home), "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
        own["ENGINE"] = "pixel_ocr"
        if dies is not None and rank in dies:
            own |= {"NODE_DIES": "1", **dies[rank]}
        argv = [*launcher, "--node_rank", str(rank), "--", str(program), *map(str, command)]  # torchrun has --run_path
        with (home / "said.txt").open("w") as said:
            agents.append(subprocess.Popen(argv, cwd=home, env=own, stdout=said, stderr=said))
    return agents


def end_nodes(tmp_path: Path, agents: Sequence[subprocess.Popen[bytes]], seconds: float = 300) -> tuple[list[int], str]:
    """Wait until the agents have ended; returns their codes and all that was said."""
    try:
        codes = [agent.wait(seconds) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    return codes, "".join((tmp_path / f"node{rank}" / "said.txt").read_text() for rank in range(2))


def validation_losses(run: Path) -> list[float]:
    """The validation losses of the AR model in a run of `glmkit finetune`."""
    return [line["validation"]["loss"] for line in read_log(run / "autoregressive.log.jsonl") if "validation" in line]


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], check=False, capture_output=True, text=True, timeout=300)


def _be(rank: int, count: int, port: str, out: Path, target: Callable[[int], int]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with out.open("w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        sys.exit(target(rank))


def fork(
    target: Callable[[int], int], folder: Path, seconds: float = 60, count: int = 2
) -> tuple[list[int | None], list[str]]:
    """Call `target(rank)` in forked processes; returns the exit codes (None: still there), and what they wrote."""
    context, port = multiprocessing.get_context("fork"), free_port()
    files = [folder / f"rank{rank}.txt" for rank in range(count)]
    every = [context.Process(target=_be, args=(rank, count, port, out, target)) for rank, out in enumerate(files)]
    for process in every:
        process.start()
    for process in every:
        process.join(seconds)
    codes = [process.exitcode for process in every]
    for process in every:
        process.kill()
    return codes, [out.read_text() for out in files]
