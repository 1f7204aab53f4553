"""Pictures -> lines of text, by OCR processes of their own: a picture that crashes or hangs OCR costs one error row.

Parent and process talk in lines of JSON: {"path"} in, {"lines"} or {"error"} out. A process ends when its input does,
so none survives a killed parent.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkit import runs
from glmkit.errors import UserError
from glmkit.records import Record

MAX_PROCESSES = 8
PICTURES_A_PROCESS = 16  # below this, loading another engine costs more time than it saves
SECONDS_A_PICTURE = 120.0


@dataclass(frozen=True)
class Line(Record):
    """One line that OCR found: confidence in 0..1, box = left, top, right, bottom in pixels."""

    text: str
    confidence: float
    box: tuple[int, int, int, int]


class ReadError(Exception):
    """OCR failed on one picture."""


def reading_order(lines: Sequence[Line]) -> list[Line]:
    """Lines by rows from the top, each row from the left.

    A line joins a row when it overlaps at least half of the lower of the two heights with the row's first line.
    """
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: (line.box[1], line.box[0])):
        for row in rows:
            (_, top, _, bottom), (_, row_top, _, row_bottom) = line.box, row[0].box
            if 2 * (min(bottom, row_bottom) - max(top, row_top)) >= max(1, min(bottom - top, row_bottom - row_top)):
                row.append(line)
                break
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def read_all(paths: Sequence[Path], engine: str) -> Iterator[tuple[Path, tuple[Line, ...] | ReadError]]:
    """Read each picture once with the engine of that module name; results come as they are ready, in any order."""
    cores = runs.cores()
    processes = max(1, min(MAX_PROCESSES, cores // 2, len(paths) // PICTURES_A_PROCESS))
    free: queue.SimpleQueue[OcrProcess] = queue.SimpleQueue()
    workers = [OcrProcess(engine, max(1, cores // processes)) for _ in range(processes)]
    for worker in workers:
        free.put(worker)

    def read(path: Path) -> tuple[Line, ...] | ReadError:
        worker = free.get()
        try:
            return worker.read(path)
        except ReadError as error:
            return error
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(processes)
    try:
        futures = {pool.submit(read, path): path for path in paths}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()


class OcrProcess:
    """One OCR process, started when first needed and again after a crash."""

    def __init__(self, engine: str, threads: int) -> None:
        self._command = [sys.executable, "-m", "glmkit.evaluation.reading", engine, str(threads)]
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> tuple[Line, ...]:
        """The lines of one picture. ReadError when OCR failed on it, UserError when OCR does not start at all."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        answer = self._ask({"path": str(path)}, SECONDS_A_PICTURE)
        if answer is None:
            raise ReadError(f"the OCR process died or took more than {SECONDS_A_PICTURE:.0f} s: {self._last_words()}")
        if "error" in answer:
            raise ReadError(answer["error"])
        return tuple(Line.from_row(line) for line in answer["lines"])

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(self._command, text=True, encoding="utf-8", **pipes)  # type: ignore[call-overload]
        if self._ask({}, 3 * SECONDS_A_PICTURE) is None:
            raise UserError("the OCR engine does not start", found=self._last_words(), fix='pip install "glmkit[eval]"')

    def _ask(self, question: dict[str, str], seconds: float) -> dict[str, Any] | None:
        """Send one line and wait for one; None when the process died or was killed for taking too long."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        alarm = threading.Timer(seconds, process.kill)
        alarm.start()
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            return json.loads(line) if line.endswith("\n") else None
        except BrokenPipeError:
            return None
        finally:
            alarm.cancel()

    def _last_words(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def serve(engine: str, threads: int) -> None:
    """The OCR process: answer questions until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    read = importlib.import_module(engine).load(threads)
    for question in sys.stdin:
        answer: dict[str, object] = {}
        if path := json.loads(question).get("path"):
            try:
                answer = {"lines": [line.to_row() for line in read(Path(path))]}
            except Exception as error:  # any failure is this picture's error row
                answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
