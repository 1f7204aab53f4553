"""PP-OCRv4 mobile by RapidOCR 1.4, whose package holds the weights (Apache-2.0): a second reader beside `paddleocr`.

What learnt from the rewards of one reader may write what this one alone accepts; another network, of other training,
tells. It loses spaces between words: compare NED and CER, not words. Its package asks for an opencv beside the one that
PaddleOCR has, so it is installed without what it asks for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine, line_around
from glmkit.evaluation.ocr.process import local_command
from glmkit.extras import require
from glmkit.hashing import large_file_sha256
from glmkit.inputs.images import read_image

NAME = "RapidOCR 1.4, PP-OCRv4 mobile"
PACKAGE, VERSION = "rapidocr-onnxruntime", "1.4.4"  # the last one with these weights
WEIGHTS = ("ch_PP-OCRv4_det_infer.onnx", "ch_PP-OCRv4_rec_infer.onnx")
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"


def check() -> None:
    """Raise UserError when a package is missing."""
    _weights()


def identity(location: str = "") -> EngineIdentity:
    """Name engine, weights and versions; UserError with the command that installs what is missing."""
    if location:
        raise UserError("the OCR engine rapidocr needs no location", found=location, fix="--ocr rapidocr")
    folder = _weights()
    weights = {name: large_file_sha256(folder / name) for name in WEIGHTS}
    versions = " ".join(f"{name}-{importlib.metadata.version(name)}" for name in (PACKAGE, "onnxruntime"))
    return EngineIdentity(NAME, weights, versions)


def processes(cores: int) -> int:
    """Use two cores for each."""
    return max(1, cores // 2)


def command(location: str, threads: int, number: int) -> list[str]:
    """Run in this environment."""
    return local_command(__name__, location, threads, number)


def load(_location: str, threads: int, _number: int) -> Callable[[Path, int], list[RecognizedLine]]:
    """Make the engine a function: image file -> lines from top to bottom. Uses `threads` CPU threads.

    The function raises UserError for a file that is not an image.
    """
    engine = importlib.import_module("rapidocr_onnxruntime").RapidOCR(
        intra_op_num_threads=threads, inter_op_num_threads=1
    )

    def recognize(path: Path, _max_tokens: int) -> list[RecognizedLine]:
        pixels = np.ascontiguousarray(np.asarray(read_image(path))[:, :, ::-1])  # it takes BGR
        found, _ = engine(pixels, use_cls=False, text_score=0.0)
        return [line_around(text, confidence, polygon) for polygon, text, confidence in found or ()]

    return recognize


def _weights() -> Path:
    """Return the folder with the ONNX files; UserError when one of the packages is missing."""
    require("onnxruntime", "OCR")
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"the OCR engine rapidocr needs the package {PACKAGE}", fix=INSTALL) from error
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    folder = Path(str(spec.origin)).parent / "models" if spec is not None else Path()
    if not all((folder / name).is_file() for name in WEIGHTS):
        raise UserError(f"{PACKAGE} has other weights than this engine reads with", found=version, fix=INSTALL)
    return folder
