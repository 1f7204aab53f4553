"""An OCR engine for tests of generated images: an image of an even sum of pixels reads "red fox", any other "owl"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine
from glmkit.evaluation.ocr.process import local_command


def identity(_location: str) -> EngineIdentity:
    return EngineIdentity("pixel")


def processes(_cores: int) -> int:
    return 1


def command(location: str, threads: int, number: int) -> list[str]:
    return local_command(__name__, location, threads, number)


def load(_location: str, _threads: int, _number: int) -> Callable[[Path, int], list[RecognizedLine]]:
    return _read


def _read(path: Path, _tokens: int) -> list[RecognizedLine]:
    even = int(np.asarray(Image.open(path), dtype=np.int64).sum()) % 2 == 0
    return [RecognizedLine("red fox" if even else "owl", 1.0, (0, 0, 50, 8))]
