"""Images -> lines of text, by OCR processes of their own: an image that crashes or hangs OCR costs one error row.

Parent and process talk in lines of JSON: {"path", "tokens"} in, {"lines"} or {"error"} out; an empty question is
answered when the engine is ready. A process ends when its input does, so none survives a killed parent. The process is
this file for engines that live in this environment, or any program that speaks the same, in an environment of its own.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmkit import runs
from glmkit.errors import UserError
from glmkit.evaluation.ocr import engines
from glmkit.records import Record

MAX_PROCESSES = 8
IMAGES_A_PROCESS = 16  # below this, loading another engine costs more time than it saves
SECONDS_A_IMAGE = 120.0


@dataclass(frozen=True)
class Line(Record):
    """One line that OCR found: confidence in 0..1, box = left, top, right, bottom in pixels."""

    text: str
    confidence: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Identity(Record):
    """What decides a reading. `reader` names the engine and its settings, `weights` maps its files to their sha256.

    `versions` are the other packages: a reading made with others is not taken again, but is as official.
    """

    reader: str
    weights: Mapping[str, str] = field(default_factory=dict)
    versions: str = ""

    @property
    def key(self) -> str:
        """A short name for all of it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        weights = hashlib.sha256(json.dumps(dict(self.weights), sort_keys=True).encode()).hexdigest()[:12]
        return " ".join(filter(None, (self.reader, self.versions, f"weights {weights}")))


class ReadError(Exception):
    """OCR failed on one image."""


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


def read_all(images: Mapping[Path, int], engine: str) -> Iterator[tuple[Path, tuple[Line, ...] | ReadError]]:
    """Read each image once with an engine (`engines.find`); results come as they are ready, in any order.

    `images` maps a file to the number of tokens with which an OCR language model may answer.
    """
    module, where = engines.find(engine)
    cores = runs.cores()
    processes = max(1, min(module.processes(cores), len(images) // IMAGES_A_PROCESS))
    threads = max(1, cores // processes)
    free: queue.SimpleQueue[OcrProcess] = queue.SimpleQueue()
    workers = [OcrProcess(module.command(where, threads, number)) for number in range(processes)]
    for worker in workers:
        free.put(worker)

    def read(path: Path) -> tuple[Line, ...] | ReadError:
        worker = free.get()
        try:
            return worker.read(path, images[path])
        except ReadError as error:
            return error
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(processes)
    try:
        futures = {pool.submit(read, path): path for path in images}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()


class OcrProcess:
    """One OCR process, started when first needed and again after a crash."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path, tokens: int) -> tuple[Line, ...]:
        """The lines of one image. ReadError when OCR failed on it, UserError when OCR does not start at all."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        answer = self._ask({"path": str(path), "tokens": tokens}, SECONDS_A_IMAGE)
        if answer is None:
            raise ReadError(f"the OCR process died or took more than {SECONDS_A_IMAGE:.0f} s: {self._last_words()}")
        if "error" in answer:
            raise ReadError(answer["error"])
        return tuple(Line.from_dict(line) for line in answer["lines"])

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(self._command, text=True, encoding="utf-8", **pipes)  # type: ignore[call-overload]
        if self._ask({}, 3 * SECONDS_A_IMAGE) is None:
            raise UserError("the OCR engine does not start", found=self._last_words(), fix='pip install "glmkit[eval]"')

    def _ask(self, question: Mapping[str, object], seconds: float) -> dict[str, Any] | None:
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


def here(module: str, where: str, threads: int, number: int) -> list[str]:
    """The command of an OCR process in this environment, for `engine.command`."""
    return [sys.executable, "-m", "glmkit.evaluation.ocr.process", module, where, str(threads), str(number)]


def serve(module: str, where: str, threads: int, number: int) -> None:
    """The OCR process: answer questions until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    read = importlib.import_module(module).load(where, threads, number)
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, object] = {}
        if path := question.get("path"):
            try:
                answer = {"lines": [found.to_dict() for found in read(Path(path), question["tokens"])]}
            except Exception as error:  # any failure is this image's error row
                answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
