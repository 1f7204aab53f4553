"""Processes that compute one function of many inputs, one per core.

Parent and process talk in pickles: an input in, its result out. A process ends when its input does, so none survives a
killed parent; one that dies costs the result of one input, and another takes its place.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from glmkit import runs
from glmkit.errors import UserError

MIN_INPUTS, MIN_CORES = 64, 4  # with fewer at a time, starting costs more than it saves; with fewer, OCR has them all
INPUTS_PER_PROCESS = 32  # fewer do not pay for its start
MAX_PROCESSES = 32
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # of libraries: one per process is enough


class ProcessDiedError(UserError):
    """A process died over an input, such as for want of memory."""


def worth_it(inputs: int) -> bool:
    """Tell whether processes compute so many inputs at a time, of 20 ms or more each, sooner than this one does."""
    return inputs >= MIN_INPUTS and runs.cores() >= MIN_CORES


class WorkerProcesses:
    """Hold one process per core, or fewer for few inputs; they start when needed, and end when this is closed.

    `make` is MODULE:FUNCTION. It is called with `arguments` once in each process, and returns what computes an input.
    `inputs` says how many come at a time.
    """

    def __init__(self, make: str, *arguments: str, inputs: int) -> None:
        self._command = [sys.executable, "-m", __name__, make, *arguments]
        count = max(1, min(MAX_PROCESSES, runs.cores(), inputs // INPUTS_PER_PROCESS))
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        self._running: set[subprocess.Popen[bytes]] = set()
        for _ in range(count):
            self._idle.put(None)
        self._pool = ThreadPoolExecutor(count)

    def submit(self, value: object) -> Future[Any]:
        """Have an input computed. The result raises the UserError of the function, and ProcessDiedError."""
        return self._pool.submit(self._compute, value)

    def _compute(self, value: object) -> Any:
        process = self._idle.get()
        try:
            process = process or self._start()
            pickle.dump(value, process.stdin)  # type: ignore[arg-type]
            process.stdin.flush()  # type: ignore[union-attr]
            result, error = pickle.load(process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError, pickle.UnpicklingError):
            code = self._end(process) if process else None
            process = None
            raise ProcessDiedError("a process beside this one died", found=f"exit code {code}") from None
        finally:
            self._idle.put(process)
        if error is not None:
            raise error
        return result

    def _start(self) -> subprocess.Popen[bytes]:
        threads = dict.fromkeys(THREADS, "1")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(self._command, env={**os.environ, **threads}, **pipes)  # type: ignore[call-overload]
        self._running.add(process)
        return process  # type: ignore[no-any-return]

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        self._running.discard(process)
        process.kill()
        return process.wait()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            self._end(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve(make: str, arguments: Sequence[str]) -> None:
    """Be a process: compute inputs until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    module, _, function = make.partition(":")
    compute: Callable[[Any], object] = getattr(importlib.import_module(module), function)(*arguments)
    while True:
        try:
            value = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: tuple[object, UserError | None] = (compute(value), None)
        except UserError as error:
            answer = (None, error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
