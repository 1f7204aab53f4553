"""CVTG-2K's OCR, to be run by the Python of an environment that has paddleocr 2.10.0 (and no glmkit).

    PYTHON paddleocr_2_10.py identity                  one line of JSON: versions, sha256 of the six weight files
    PYTHON paddleocr_2_10.py serve THREADS             lines of JSON: {"path"} in, {"lines"} or {"error"} out
    PYTHON paddleocr_2_10.py folder IMAGES FILE      reads all images in a folder into a file, for elsewhere;
                                                       started again, it reads what the file lacks

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
    """The engine with the settings of the benchmark; all others are the defaults of 2.10.0."""
    from paddleocr import PaddleOCR

    return PaddleOCR(use_angle_cls=True, lang="en", show_log=False, use_gpu=False, cpu_threads=threads)


def identity(engine: Any) -> dict[str, Any]:
    places = engine.text_detector.args  # all three parts share one namespace of settings
    weights = {}
    for name in ("det", "rec", "cls"):
        for file in FILES:
            weights[f"{name}/{file}"] = sha256(os.path.join(getattr(places, name + "_model_dir"), file))
    return {"paddleocr": version("paddleocr"), "paddlepaddle": version("paddlepaddle"), "weights": weights}


def read(engine: Any, path: str) -> list[dict[str, Any]]:
    pages = engine.ocr(path, cls=True)
    lines = []
    for box, (text, confidence) in [line for page in pages if page for line in page]:
        left, top = (int(min(point[axis] for point in box)) for axis in (0, 1))
        right, bottom = (int(max(point[axis] for point in box)) for axis in (0, 1))
        lines.append({"text": text, "confidence": float(confidence), "box": [left, top, right, bottom]})
    return lines


def attempt(engine: Any, path: str) -> dict[str, Any]:
    try:
        return {"lines": read(engine, path)}
    except Exception as error:  # any failure is this image's error row
        return {"error": f"{type(error).__name__}: {error}"}


def serve(engine: Any, answers: TextIO) -> None:
    for line in sys.stdin:
        path = json.loads(line).get("path")
        answer = attempt(engine, path) if path else {}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def read_folder(engine: Any, images: str, file: str) -> None:
    """One line that says who read, then a line an image with its sha256."""
    about = {"identity": identity(engine)}
    rows = stored(file)
    if rows and rows[0] != about:
        sys.exit(f"{file} was made by another engine: {rows[0]}")
    known = {row["sha256"] for row in rows[1:] if "lines" in row}
    with open(file, "w", encoding="utf-8") as out:  # without what a kill left unfinished
        for row in rows or [about]:
            out.write(json.dumps(row) + "\n")
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
    if not os.path.exists(file):
        return []
    with open(file, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle if line.endswith("\n")]


def sha256(path: str) -> str:
    with open(path, "rb") as handle:
        return hashlib.sha256(handle.read()).hexdigest()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    task, *rest = sys.argv[1:] or ["no task"]
    if task == "identity":
        answers.write(json.dumps(identity(start(1))) + "\n")
        answers.flush()
    elif task == "serve":
        serve(start(int(rest[0])), answers)
    elif task == "folder" and len(rest) == 2:
        read_folder(start(os.cpu_count() or 1), *rest)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
