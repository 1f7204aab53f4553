"""Images as data URIs small enough that a report of hundreds stays one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

LARGEST_SIDE = 288  # pixels of a thumbnail: as wide as the page shows it
SMALL_FILE = 30_000  # bytes: an original PNG below this is embedded as it is
QUALITY = 76


@dataclass(frozen=True)
class Thumbnail:
    """`uri` holds the embedded image, `height` and `width` its pixels."""

    uri: str
    height: int
    width: int


def thumbnail(path: Path) -> Thumbnail:
    """Embed the image at `path`; raises OSError when it is missing or cannot be read."""
    with Image.open(path) as image:
        width, height = image.size
        if image.format == "PNG" and max(width, height) <= LARGEST_SIDE and path.stat().st_size <= SMALL_FILE:
            image.load()
            return Thumbnail(data_uri(path.read_bytes(), "png"), height, width)
        small = image.convert("RGB")
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=4)
    return Thumbnail(data_uri(buffer.getvalue(), "webp"), small.height, small.width)


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
