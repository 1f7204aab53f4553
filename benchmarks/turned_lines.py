"""Measure which turned lines the OCR engine paddleocr reads, and how sure it is: python benchmarks/turned_lines.py

Every text is written on an image of its own, which is turned about its centre to the left in steps of 15 degrees.
An image is read as it is and turned over, which is how `--ocr paddleocr:orientation` reads it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from glmkit.evaluation.ocr.engines import paddleocr
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.files import read_jsonl, write_json
from glmkit.posters import fonts

SIDE, TEXT_WIDTH = 384, 240  # pixels
STEP = 15  # degrees
PROMPTS = Path(__file__).with_name("text_render") / "prompts.jsonl"
LONGEST = 20  # characters
ALIKE = ("NOON", "SOS", "WOW", "MOM", "OXO", "69", "96", "SIS", "dollop", "pod")


def texts(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield texts with their typefaces: those that are words when turned over, too, then texts of everyday prompts."""
    rng = random.Random(seed)
    records = [record for record in read_jsonl(PROMPTS) if record["language"] == "en"]
    asked = [text for record in records for text in record["texts"] if len(text) <= LONGEST]
    for text in [*ALIKE, *rng.sample(asked, count - len(ALIKE))]:
        yield text, rng.choice(list(fonts.TYPEFACES))


def written(text: str, typeface: str) -> Image.Image:
    """Write a text in the middle of an image."""
    image = Image.new("RGB", (SIDE, SIDE), "navy")
    pen = ImageDraw.Draw(image)
    font = fonts.load(typeface, 48)
    font = fonts.load(typeface, max(16, int(48 * min(1, TEXT_WIDTH / max(1, pen.textlength(text, font))))))
    pen.text((SIDE / 2, SIDE / 2), text, "white", font, anchor="mm")
    return image


def read(image: Image.Image, recognize: Callable[[Path, int], list[RecognizedLine]], path: Path) -> tuple[str, float]:
    """Return all that is read in an image, and how sure of it the engine is."""
    image.save(path)
    lines = recognize(path, 1024)
    return " ".join(line.text for line in lines), min((line.confidence for line in lines), default=0.0)


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line per angle: how many texts are read as it is, and with the surer of both readings."""
    found = {(row["text"], row["angle"]): row for row in rows}
    names = list(dict.fromkeys(row["text"] for row in rows))
    yield "| degrees to the left | texts | paddleocr | paddleocr:orientation |\n| --- | --- | --- | --- |"
    for angle in range(0, 360, STEP):
        pairs = [(found[name, angle], found[name, (angle + 180) % 360]) for name in names]
        surer = [b if b["confidence"] - a["confidence"] > paddleocr.SURER else a for a, b in pairs]
        right = [
            sum(_letters(row["said"]) == _letters(row["text"]) for row in some)
            for some in ([a for a, _ in pairs], surer)
        ]
        yield f"| {angle} | {len(names)} | {right[0]} | {right[1]} |"


def _letters(text: str) -> str:
    return "".join(text.split()).casefold()


def main() -> int:
    """Read all texts at all angles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        recognize, path = paddleocr.load("", 1, 0), Path(folder) / "image.png"
        for text, typeface in texts(arguments.count, arguments.seed):
            for angle in range(0, 360, STEP):
                image = written(text, typeface).rotate(angle, Image.Resampling.BICUBIC, fillcolor="navy")
                said, confidence = read(image, recognize, path)
                rows.append({"text": text, "angle": angle, "said": said, "confidence": confidence})
    print("\n".join(table(rows)))
    if arguments.out:
        write_json(arguments.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
