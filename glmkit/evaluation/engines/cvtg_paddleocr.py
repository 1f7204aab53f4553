"""The OCR of CVTG-2K's published scores: PaddleOCR 2.10.0 with en_PP-OCRv3 (detector), en_PP-OCRv4 (recogniser) and the
angle classifier mobile_v2.0.

It cannot share an environment with PaddleOCR 3, so it runs in one of its own: WHERE is the Python of that environment,
and `drivers/paddleocr_2_10.py` is the program that this Python runs. To make it, once:

    python -m venv ocr-cvtg
    ocr-cvtg/bin/pip install paddleocr==2.10.0 paddlepaddle==3.0.0 setuptools
    glmkit eval --suite cvtg-2k --data CVTG-2K --images PICTURES --ocr cvtg-paddleocr:ocr-cvtg/bin/python

The first start downloads the three models (15 MB) from PaddleOCR's server. On a machine that cannot, copy
`~/.paddleocr/whl` from one that can.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from glmkit.errors import UserError
from glmkit.evaluation import drivers
from glmkit.evaluation.reading import MAX_PROCESSES, Identity

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
_DRIVER = Path(drivers.__file__).with_name("paddleocr_2_10.py")
_SECONDS = 600  # the first start downloads the models


def identity(where: str) -> Identity:
    """What the environment holds; UserError with the commands that make one when it is missing or does not work."""
    try:
        run = subprocess.run(
            [_python(where), str(_DRIVER), "identity"], capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{where} took more than {_SECONDS} s to start PaddleOCR", fix=INSTALL) from error
    if run.returncode or not run.stdout:
        said = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
        raise UserError(f"PaddleOCR 2.10 does not start in {where}", found=said[-1], fix=f"{INSTALL}; {NO_NETWORK}")
    found = json.loads(run.stdout)
    return Identity(
        f"PaddleOCR {found['paddleocr']}, {SETTINGS}", found["weights"], f"paddlepaddle-{found['paddlepaddle']}"
    )


def processes(cores: int) -> int:
    return max(1, min(MAX_PROCESSES, cores // 2))


def command(where: str, threads: int, number: int) -> list[str]:
    return [_python(where), str(_DRIVER), "serve", str(threads)]


def _python(where: str) -> str:
    found = shutil.which(where) if where else None
    if found is None:
        raise UserError(
            "cvtg-paddleocr runs in an environment of its own",
            found=where or "no Python named",
            fix=f"{INSTALL}, then --ocr cvtg-paddleocr:ocr-cvtg/bin/python",
        )
    return found
