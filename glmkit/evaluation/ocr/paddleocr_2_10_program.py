"""CVTG-2K's OCR, to be run by the Python of an environment that has paddleocr 2.10.0 (and no glmkit).

    PYTHON paddleocr_2_10_program.py identity             one line of JSON: versions, sha256 of the six weight files
    PYTHON paddleocr_2_10_program.py serve THREADS        lines of JSON: {"path"} in, {"lines"} or {"error"} out
    PYTHON paddleocr_2_10_program.py folder IMAGES FILE   the lines of all images of a folder into a file, to be used
                                                          elsewhere; started again, it adds what the file lacks

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
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


def start(threads: int) -> Any:
    """Start the engine with the settings of the benchmark; all others are the defaults of 2.10.0."""
    from paddleocr import PaddleOCR

    return PaddleOCR(use_angle_cls=True, lang="en", show_log=False, use_gpu=False, cpu_threads=threads)


def identity(engine: Any) -> dict[str, Any]:
    """Name versions, and the sha256 of the six files of weights."""
    settings = engine.text_detector.args  # the three networks share one namespace
    weights = {}
    for name in ("det", "rec", "cls"):
        for file in FILES:
            weights[f"{name}/{file}"] = sha256(os.path.join(getattr(settings, name + "_model_dir"), file))
    return {"paddleocr": version("paddleocr"), "paddlepaddle": version("paddlepaddle"), "weights": weights}


def recognize(engine: Any, path: str) -> list[dict[str, Any]]:
    """Give the lines of an image with confidence and box."""
    pages = engine.ocr(path, cls=True)
    lines = []
    for box, (text, confidence) in [line for page in pages if page for line in page]:
        left, top = (int(min(point[axis] for point in box)) for axis in (0, 1))
        right, bottom = (int(max(point[axis] for point in box)) for axis in (0, 1))
        lines.append({"text": text, "confidence": float(confidence), "box": [left, top, right, bottom]})
    return lines


def attempt(engine: Any, path: str) -> dict[str, Any]:
    """Give the lines of an image, or the error."""
    try:
        return {"lines": recognize(engine, path)}
    except Exception as error:  # whatever fails is the error of this image
        return {"error": f"{type(error).__name__}: {error}"}


def serve(engine: Any, answers: TextIO) -> None:
    """Answer requests on the standard input until it ends."""
    for line in sys.stdin:
        path = json.loads(line).get("path")
        answer = attempt(engine, path) if path else {}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def recognize_folder(engine: Any, images: str, file: str) -> None:
    """Write one line that names the engine, then one line per image with its sha256."""
    about = {"identity": identity(engine)}
    records = stored(file)
    if records and records[0] != about:
        sys.exit(f"{file} was made by another engine: {records[0]}")
    known = {record["sha256"] for record in records[1:] if "lines" in record}
    with open(file, "w", encoding="utf-8") as out:  # without what a kill left unfinished
        for record in records or [about]:
            out.write(json.dumps(record) + "\n")
        for folder, _, names in sorted(os.walk(images)):
            for name in sorted(names):
                if name.lower().endswith(IMAGES):
                    path = os.path.join(folder, name)
                    digest = sha256(path)
                    if digest not in known:
                        known.add(digest)
                        out.write(json.dumps({"sha256": digest, **attempt(engine, path)}) + "\n")
                        out.flush()


def stored(file: str) -> list[dict[str, Any]]:
    """Read the complete lines of a file that an earlier start left."""
    if not os.path.exists(file):
        return []
    with open(file, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle if line.endswith("\n")]


def sha256(path: str) -> str:
    """Hash the content of a file."""
    with open(path, "rb") as handle:
        return hashlib.sha256(handle.read()).hexdigest()


def main() -> None:
    """Do the task that the command line names."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    task, *rest = sys.argv[1:] or ["no task"]
    if task == "identity":
        answers.write(json.dumps(identity(start(1))) + "\n")
        answers.flush()
    elif task == "serve":
        serve(start(int(rest[0])), answers)
    elif task == "folder" and len(rest) == 2:
        recognize_folder(start(os.cpu_count() or 1), *rest)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
