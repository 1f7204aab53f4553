"""Score images in processes of their own by rewards that hold a core for long: each takes 20 to 40 ms of pixels.

Parent and process talk in pickles: a sample in, what each reward found out. A process ends when its input does, so none
survives a killed parent; one that dies costs the error of one image.
"""

from __future__ import annotations

import importlib
import math
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glmkit import runs
from glmkit.errors import UserError, first_line
from glmkit.evaluation.named_files import find

if TYPE_CHECKING:
    from glmkit.training.rl.rewards import Reward, RewardSample

MIN_IMAGES, MIN_CORES = 64, 4  # with fewer at a time, starting costs more than it saves; with fewer, OCR has them all
MAX_PROCESSES = 32
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # of libraries: one per process is enough


@dataclass(frozen=True)
class Failed:
    """Say why a reward could not score an image."""

    reason: str


Found = float | Failed | None  # a reward; None where it says nothing of the prompt


def ask(reward: Reward, sample: RewardSample) -> Found:
    """Have one reward score an image. A UserError concerns all images; whatever else goes wrong concerns this one."""
    try:
        value = reward.score(sample)
    except UserError:
        raise
    except Exception as error:
        return Failed(first_line(error))
    if value is not None and not math.isfinite(value):
        return Failed(f"{value} is no reward")
    return None if value is None else float(value)


def worth_it(images: int) -> bool:
    """Tell whether processes score so many images at a time sooner than this one does."""
    return images >= MIN_IMAGES and runs.cores() >= MIN_CORES


class ScoringProcesses:
    """Hold one process per core; they start when needed. `rewards`: what finds each (`named_files.find`), by name."""

    def __init__(self, rewards: Mapping[str, str]) -> None:
        self._rewards = dict(rewards)
        count = min(MAX_PROCESSES, runs.cores())
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        self._running: set[subprocess.Popen[bytes]] = set()
        for _ in range(count):
            self._idle.put(None)
        self._pool = ThreadPoolExecutor(count)

    def submit(self, sample: RewardSample) -> Future[dict[str, Found]]:
        """Have a sample scored by each of the rewards."""
        return self._pool.submit(self._score, sample)

    def _score(self, sample: RewardSample) -> dict[str, Found]:
        process = self._idle.get()
        try:
            process = process or self._start()
            pickle.dump(sample, process.stdin)  # type: ignore[arg-type]
            process.stdin.flush()  # type: ignore[union-attr]
            found: dict[str, Found] = pickle.load(process.stdout)  # type: ignore[arg-type]
            return found
        except (OSError, EOFError, pickle.UnpicklingError):
            code = self._end(process) if process else None
            process = None
            return dict.fromkeys(self._rewards, Failed(f"the process that scores images died (exit code {code})"))
        finally:
            self._idle.put(process)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__, *(f"{name}={where}" for name, where in self._rewards.items())]
        threads = dict.fromkeys(THREADS, "1")
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **threads}
        )
        self._running.add(process)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        self._running.discard(process)
        process.kill()
        return process.wait()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            self._end(process)


def serve(given: Sequence[str]) -> None:
    """Be a process: score samples by rewards, given as NAME=MODULE[:WHAT], until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    rewards: dict[str, Reward] = {}
    for name, _, where in (one.partition("=") for one in given):
        module, what = find(where)
        rewards[name] = module.load(what, "cpu")
    while True:
        try:
            sample = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump({name: ask(reward, sample) for name, reward in rewards.items()}, answers)
        answers.flush()


if __name__ == "__main__":
    # Not of `__main__`: what is pickled here must be the parent's classes.
    importlib.import_module("glmkit.training.rl.scoring").serve(sys.argv[1:])
