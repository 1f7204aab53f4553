"""An OCR engine for tests: the image says in its PNG text what is read, if anything, and how reading goes wrong.

FAKE_OCR_LOG: a file that gets the name of each image that is read. FAKE_OCR_SECONDS: how long each takes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, PngImagePlugin

from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine
from glmkit.evaluation.ocr.process import local_command


def identity(location: str) -> EngineIdentity:
    return EngineIdentity(f"fake {location}".strip())


def processes(cores: int) -> int:
    return cores // 2


def command(location: str, threads: int, number: int) -> list[str]:
    return local_command(__name__, location, threads, number)


def load(_location: str, _threads: int, _number: int) -> Callable[[Path, int], list[RecognizedLine]]:
    if os.environ.get("FAKE_OCR_BROKEN"):
        raise RuntimeError("no weights")
    return _read


def write(path: Path, *lines: str, confidence: float = 0.9, does: str = "read") -> Path:
    """An image in which `lines` are read, from top to bottom."""
    info = PngImagePlugin.PngInfo()
    info.add_text("does", does)
    for row, text in enumerate(lines):
        info.add_itxt(f"line{row}", text)
    info.add_text("confidence", str(confidence))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def recognized(*texts: str, confidence: float = 0.9) -> list[RecognizedLine]:
    """Lines of these texts, one under the other."""
    return [RecognizedLine(text, confidence, (0, 10 * row, 50, 10 * row + 8)) for row, text in enumerate(texts)]


def _read(path: Path, tokens: int) -> list[RecognizedLine]:
    print("libraries print, too")
    if log := os.environ.get("FAKE_OCR_LOG"):
        with open(log, "a", encoding="utf-8") as handle:
            handle.write(f"{os.getpid()} {path.name}\n")
    time.sleep(float(os.environ.get("FAKE_OCR_SECONDS", "0")))
    with Image.open(path) as image:
        text = {"does": "read", "confidence": "1", **image.text}  # type: ignore[attr-defined]
    if text["does"] == "crash":
        os._exit(7)
    if text["does"] == "hang":
        time.sleep(60)
    if text["does"] == "fail":
        raise ValueError("unreadable")
    if text["does"] == "tokens":
        return [RecognizedLine(str(tokens), 1.0, (0, 0, 50, 8))]
    rows = [value for key, value in text.items() if key.startswith("line")]
    return recognized(*rows, confidence=float(text["confidence"]))
