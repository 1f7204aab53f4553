"""Run OCR engines in processes of their own: an image that crashes or hangs OCR costs one error, not the run.

Parent and process talk in lines of JSON: {"path", "max_tokens"} in, {"lines"} or {"error"} out; an empty request is
answered when the engine is ready. A process ends when its input does, so none survives a killed parent. The process is
this file for engines that live in this environment, or any program that speaks the same, in an environment of its own.
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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from glmkit import runs
from glmkit.errors import UserError, one_line
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.ocr.lines import OcrError, OcrResult, RecognizedLine

MAX_PROCESSES, MAX_DENSE_PROCESSES = 8, 32
IMAGES_PER_PROCESS = 16  # below this, loading another engine costs more time than it saves
MANY_IMAGES = 64
SECONDS_PER_IMAGE = 120.0


def recognize_images(images: Mapping[Path, int], engine: str) -> Iterator[tuple[Path, OcrResult]]:
    """Recognize the text of each image once with an engine (`engines.find`); results come in any order.

    `images` maps a file to the number of tokens with which an OCR language model may answer.
    """
    processes = OcrProcesses(engine, len(images) // IMAGES_PER_PROCESS, dense=len(images) >= MANY_IMAGES)
    try:
        yield from processes.recognize(images)
    finally:
        processes.close()


class OcrProcesses:
    """Hold as many processes of an engine as run well here, at most `limit`, at least one; they start when needed.

    `dense` has as many as for twice the cores, for many images. Of PaddleOCR that is one per core: an image takes
    0.09 s of processor time in place of 0.23 s, and the lines are the same.
    """

    def __init__(self, engine: str, limit: int = MAX_DENSE_PROCESSES, *, dense: bool = False) -> None:
        module, location = engines.find(engine)
        cores = runs.cores()
        most = module.processes(cores * (1 + dense))
        count = max(1, min(most, limit, MAX_DENSE_PROCESSES if dense else MAX_PROCESSES))
        threads = max(1, cores // count)
        self._processes = [OcrProcess(module.command(location, threads, number)) for number in range(count)]
        self._idle: queue.SimpleQueue[OcrProcess] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def recognize(self, images: Mapping[Path, int]) -> Iterator[tuple[Path, OcrResult]]:
        """Recognize images as `recognize_images` does; threads may call this at the same time."""

        def recognize(path: Path) -> OcrResult:
            process = self._idle.get()
            try:
                return process.recognize(path, images[path])
            except OcrError as error:
                return error
            finally:
                self._idle.put(process)

        pool = ThreadPoolExecutor(len(self._processes))
        try:
            futures = {pool.submit(recognize, path): path for path in images}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()


class OcrProcess:
    """Hold one OCR process, started when first needed and again after a crash."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None

    def recognize(self, path: Path, max_tokens: int) -> tuple[RecognizedLine, ...]:
        """Recognize the lines of one image. OcrError when OCR failed on it, UserError when it does not start at all."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        answer = self._ask({"path": str(path), "max_tokens": max_tokens}, SECONDS_PER_IMAGE)
        if answer is None:
            raise OcrError(f"the OCR process died or took more than {SECONDS_PER_IMAGE:.0f} s: {self._last_words()}")
        if "error" in answer:
            raise OcrError(answer["error"])
        return tuple(RecognizedLine.from_dict(line) for line in answer["lines"])

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(self._command, encoding="utf-8", **pipes)  # type: ignore[call-overload]
        answer = self._ask({}, 3 * SECONDS_PER_IMAGE)
        if answer is not None and "refused" in answer:
            raise UserError(**answer["refused"])
        if answer is None:
            raise UserError("the OCR engine does not start", found=self._last_words(), fix='pip install "glmkit[eval]"')

    def _ask(self, request: Mapping[str, object], seconds: float) -> dict[str, Any] | None:
        """Send one line and wait for one; None when the process died or was killed for taking too long."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(seconds, process.kill)
        alarm.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            return json.loads(line) if line.endswith("\n") else None
        except OSError:  # the pipe is broken: BrokenPipeError, but on Windows also EINVAL
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
        """End the process, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def local_command(module: str, location: str, threads: int, number: int) -> list[str]:
    """Give the command of an OCR process in this environment, for `engine.command`."""
    return [sys.executable, "-m", "glmkit.evaluation.ocr.process", module, location, str(threads), str(number)]


def serve(module: str, location: str, threads: int, number: int) -> None:
    """Be the OCR process: answer requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    try:
        recognize = importlib.import_module(module).load(location, threads, number)
    except UserError as error:
        refused = {"what": error.what, "found": None if error.found is None else str(error.found), "fix": error.fix}
        answers.write(json.dumps({"refused": refused}) + "\n")
        return
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, object] = {}
        if path := request.get("path"):
            try:
                answer = {"lines": [found.to_dict() for found in recognize(Path(path), request["max_tokens"])]}
            except Exception as error:  # whatever fails is the error of this image
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                answer = {"error": kind + one_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
