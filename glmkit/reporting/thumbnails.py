"""Images as data URIs, small enough that a report of hundreds stays one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

THUMBNAIL_SIDE = 288  # pixels: as wide as the page shows an image
GRID_SIDE = 1280  # pixels: a grid of samples is too wide for a thumbnail
MAX_PNG_BYTES = 30_000  # a thumbnail-sized PNG below this is embedded as it is
WEBP_QUALITY = 76


@dataclass(frozen=True)
class Thumbnail:
    """An embedded image: `uri` holds its bytes, `height` and `width` are pixels."""

    uri: str
    height: int
    width: int


def thumbnail(path: Path) -> Thumbnail:
    """Embed the image at `path`; raises OSError when it is missing or cannot be read."""
    with Image.open(path) as image:
        width, height = image.size
        if image.format == "PNG" and max(width, height) <= THUMBNAIL_SIDE and path.stat().st_size <= MAX_PNG_BYTES:
            image.load()
            return Thumbnail(data_uri(path.read_bytes(), "png"), height, width)
        small = image.convert("RGB")
    return _webp(small, THUMBNAIL_SIDE)


def sample_grid(path: Path) -> Thumbnail:
    """Embed a whole grid of samples; raises OSError when it is missing or cannot be read."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    return _webp(small, GRID_SIDE)


def _webp(image: Image.Image, side: int) -> Thumbnail:
    """Shrink `image` in place until its longer side is at most `side` pixels."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    return Thumbnail(data_uri(buffer.getvalue(), "webp"), image.height, image.width)


def data_uri(content: bytes, image_format: str) -> str:
    """Encode the bytes of an image file (`image_format` png, webp, ...) for the `src` of an <img>."""
    return f"data:image/{image_format};base64,{base64.b64encode(content).decode('ascii')}"
