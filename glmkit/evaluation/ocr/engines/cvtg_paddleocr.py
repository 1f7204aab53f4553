"""The OCR of CVTG-2K's published scores: PaddleOCR 2.10.0 with en_PP-OCRv3 (detector), en_PP-OCRv4 (recogniser) and the
angle classifier mobile_v2.0.

It cannot share an environment with PaddleOCR 3, so it runs in one of its own, and `paddleocr_2_10_program.py` is the
program that runs there. WHERE is the Python of that environment, or a file (*.jsonl) of readings that the program made
on another machine. The commands are in `benchmarks/public_text.md`.
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
from glmkit.evaluation.ocr.process import MAX_PROCESSES, Identity, Line, ReadError, here
from glmkit.files import read_jsonl
from glmkit.hashing import file_sha256

SETTINGS = "lang en, angle classifier, side at most 960, confidence from 0.5"
READER = f"PaddleOCR 2.10.0, {SETTINGS}"
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
_DRIVER = Path(ocr.__file__).with_name("paddleocr_2_10_program.py")
FILE = ".jsonl"
_SECONDS = 600  # the first start downloads the models


def check() -> None:
    """It always lacks its place, which the user names."""
    _python("")


def identity(where: str) -> Identity:
    """What the environment holds; UserError with the commands that make one when it is missing or does not work."""
    if where.endswith(FILE):
        return _identity(_rows(Path(where))[0]["identity"])
    try:
        run = subprocess.run(
            [_python(where), str(_DRIVER), "identity"], capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{where} took more than {_SECONDS} s to start PaddleOCR", fix=INSTALL) from error
    if run.returncode or not run.stdout:
        said = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
        raise UserError(f"PaddleOCR 2.10 does not start in {where}", found=said[-1], fix=f"{INSTALL}; {NO_NETWORK}")
    return _identity(json.loads(run.stdout))


def processes(cores: int) -> int:
    return max(1, min(MAX_PROCESSES, cores // 2))


def command(where: str, threads: int, number: int) -> list[str]:
    if where.endswith(FILE):
        return here(__name__, where, threads, number)
    return [_python(where), str(_DRIVER), "serve", str(threads)]


def load(where: str, threads: int, number: int) -> Callable[[Path, int], list[Line]]:
    """The readings of a file as an engine: lines by the content of the image."""
    rows = {row["sha256"]: row for row in _rows(Path(where))[1:]}

    def read(path: Path, tokens: int) -> list[Line]:
        row = rows.get(file_sha256(path), {"error": f"{where} has no reading of this image"})
        if "error" in row:
            raise ReadError(row["error"])
        return [Line.from_dict(line) for line in row["lines"]]

    return read


def _rows(file: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(file, partial=True)
    if not rows or not {"paddleocr", "paddlepaddle", "weights"} <= set(rows[0].get("identity", ())):
        raise UserError(f"{file} holds no readings", found="no line that says who read", fix=f"{_DRIVER.name} makes it")
    return rows


def _identity(found: dict[str, Any]) -> Identity:
    reader = f"PaddleOCR {found['paddleocr']}, {SETTINGS}"
    return Identity(reader, found["weights"], f"paddlepaddle-{found['paddlepaddle']}")


def _python(where: str) -> str:
    found = shutil.which(where) if where else None
    if found is None:
        raise UserError(
            "cvtg-paddleocr runs in an environment of its own",
            found=where or "no Python named",
            fix=f"{INSTALL}, then --ocr cvtg-paddleocr:ocr-cvtg/bin/python",
        )
    return found
