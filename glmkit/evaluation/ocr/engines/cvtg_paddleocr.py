"""The OCR of CVTG-2K's published scores: PaddleOCR 2.10.0 with en_PP-OCRv3 (detector), en_PP-OCRv4 (recogniser) and the
angle classifier mobile_v2.0.

It cannot share an environment with PaddleOCR 3, so it runs in one of its own, and `ocr/paddleocr_2_10_program.py` is
the program that runs there. LOCATION is the Python of that environment, or a file (*.jsonl) of lines that the program
recognized on another machine. The commands are in `benchmarks/public_text.md`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation import ocr
from glmkit.evaluation.ocr.lines import EngineIdentity, OcrError, RecognizedLine
from glmkit.evaluation.ocr.process import local_command
from glmkit.files import read_jsonl
from glmkit.hashing import file_sha256

SETTINGS = "lang en, angle classifier, side at most 960, confidence from 0.5"
NAME = f"PaddleOCR 2.10.0, {SETTINGS}"
# Two public listings of these files agree: RapidOCR's default_models.yaml (detector, recogniser), and the cache of a
# PaddleOCR 2.10 installation (all three).
WEIGHTS = {
    "det/inference.pdmodel": "c4bfb1b05d9d1d5a760801eaf6d20180ef7e47bcc675fb17d1f3a89da5fef427",
    "det/inference.pdiparams": "83676ec730627ab4502f401410a4b6a3ce1c0bb98fa249b71db055b6bddae051",
    "rec/inference.pdmodel": "85b952f05f709af259cfe4254012aa7208bef0998f71f57a15495446f25ccd43",
    "rec/inference.pdiparams": "75f64a1ffb70c56b7a25655963ca16f5bf3286202e3f52ac972bee05cdee2f56",
    "cls/inference.pdmodel": "3c4337ec61722a20b1dca2e5bfaffc313c0592bc89ad6e0d45168224186f6683",
    "cls/inference.pdiparams": "d1efda1b80e174b4fcb168a035ac96c1af4938892bd86a55f300a6027105d08c",
}
INSTALL = "python -m venv ocr-cvtg && ocr-cvtg/bin/pip install paddleocr==2.10.0 paddlepaddle==3.0.0 setuptools"
NO_NETWORK = "where the models cannot be downloaded, copy ~/.paddleocr/whl from a machine that has them"
_PROGRAM = Path(ocr.__file__).with_name("paddleocr_2_10_program.py")
LINES_FILE = ".jsonl"
_SECONDS = 600  # the first start downloads the models


def check() -> None:
    """Raise UserError: it always lacks the location, which the user names."""
    _python("")


def identity(location: str) -> EngineIdentity:
    """Ask the environment what it holds; UserError with the commands that make one when it does not work."""
    if location.endswith(LINES_FILE):
        return _identity(_records(Path(location))[0]["identity"])
    try:
        answer = subprocess.run(
            [_python(location), str(_PROGRAM), "identity"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{location} took more than {_SECONDS} s to start PaddleOCR", fix=INSTALL) from error
    if answer.returncode or not answer.stdout:
        words = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise UserError(f"PaddleOCR 2.10 does not start in {location}", found=words[-1], fix=f"{INSTALL}; {NO_NETWORK}")
    return _identity(json.loads(answer.stdout))


def processes(cores: int) -> int:
    """Use two cores for each."""
    return max(1, cores // 2)


def command(location: str, threads: int, number: int) -> list[str]:
    """Give the program of the other environment, or of this one for a file."""
    if location.endswith(LINES_FILE):
        return local_command(__name__, location, threads, number)
    return [_python(location), str(_PROGRAM), "serve", str(threads)]


def load(location: str, _threads: int, _number: int) -> Callable[[Path, int], list[RecognizedLine]]:
    """Serve the lines of a file as an engine: known by the content of the image."""
    records = {record["sha256"]: record for record in _records(Path(location))[1:]}

    def recognize(path: Path, _max_tokens: int) -> list[RecognizedLine]:
        record = records.get(file_sha256(path), {"error": f"{location} has no lines of this image"})
        if "error" in record:
            raise OcrError(record["error"])
        return [RecognizedLine.from_dict(line) for line in record["lines"]]

    return recognize


def _records(file: Path) -> list[dict[str, Any]]:
    records = read_jsonl(file, partial=True)
    if not records or not {"paddleocr", "paddlepaddle", "weights"} <= set(records[0].get("identity", ())):
        what = f"{file} holds no recognized lines"
        raise UserError(what, found="no line that names the engine", fix=f"{_PROGRAM.name} makes it")
    return records


def _identity(versions: dict[str, Any]) -> EngineIdentity:
    engine = f"PaddleOCR {versions['paddleocr']}, {SETTINGS}"
    return EngineIdentity(engine, versions["weights"], f"paddlepaddle-{versions['paddlepaddle']}")


def _python(location: str) -> str:
    python = shutil.which(location) if location else None
    if python is None:
        raise UserError(
            "cvtg-paddleocr runs in an environment of its own",
            found=location or "no Python named",
            fix=f"{INSTALL}, then --ocr cvtg-paddleocr:ocr-cvtg/bin/python",
        )
    return python
