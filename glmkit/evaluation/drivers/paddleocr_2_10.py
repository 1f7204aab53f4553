"""CVTG-2K's OCR, to be run by the Python of an environment that has paddleocr 2.10.0 (and no glmkit).

    PYTHON paddleocr_2_10.py identity           one line of JSON: versions, and the sha256 of the six weight files
    PYTHON paddleocr_2_10.py serve THREADS      lines of JSON: {"path"} in, {"lines"} or {"error"} out

PaddleOCR downloads its three models into ~/.paddleocr when it is first started.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from importlib.metadata import version
from typing import Any, TextIO

FILES = ("inference.pdmodel", "inference.pdiparams")


def start(threads: int) -> Any:
    """The engine with the settings of the benchmark; all others are the defaults of 2.10.0."""
    from paddleocr import PaddleOCR

    return PaddleOCR(use_angle_cls=True, lang="en", show_log=False, use_gpu=False, cpu_threads=threads)


def identity(engine: Any) -> dict[str, Any]:
    places = engine.text_detector.args  # all three parts share one namespace of settings
    weights = {}
    for name in ("det", "rec", "cls"):
        for file in FILES:
            with open(os.path.join(getattr(places, name + "_model_dir"), file), "rb") as handle:
                weights[f"{name}/{file}"] = hashlib.sha256(handle.read()).hexdigest()
    return {"paddleocr": version("paddleocr"), "paddlepaddle": version("paddlepaddle"), "weights": weights}


def read(engine: Any, path: str) -> list[dict[str, Any]]:
    pages = engine.ocr(path, cls=True)
    lines = []
    for box, (text, confidence) in [line for page in pages if page for line in page]:
        left, top = (int(min(point[axis] for point in box)) for axis in (0, 1))
        right, bottom = (int(max(point[axis] for point in box)) for axis in (0, 1))
        lines.append({"text": text, "confidence": float(confidence), "box": [left, top, right, bottom]})
    return lines


def serve(engine: Any, answers: TextIO) -> None:
    for line in sys.stdin:
        path = json.loads(line).get("path")
        answer: dict[str, Any] = {}
        if path:
            try:
                answer = {"lines": read(engine, path)}
            except Exception as error:  # any failure is this picture's error row
                answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    if sys.argv[1] == "identity":
        answers.write(json.dumps(identity(start(1))) + "\n")
        answers.flush()
    else:
        serve(start(int(sys.argv[2])), answers)


if __name__ == "__main__":
    main()
