"""Small copies of images as data URIs, for pages that are one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from glmkit.inputs.images import read_image

THUMBNAIL_SIDE = 288  # pixels: as wide as a page shows an image
GRID_SIDE = 1280  # pixels: a grid of samples is too wide for a thumbnail
WEBP_QUALITY = 76


@dataclass(frozen=True)
class Thumbnail:
    """An image of a page: `uri` holds its bytes, or names its file beside the page; `height` and `width` are pixels."""

    uri: str
    height: int
    width: int


def embedded(image: Image.Image) -> Thumbnail:
    """Embed a small copy of an image in memory."""
    return _webp(image.copy(), THUMBNAIL_SIDE)


def sample_grid(path: Path) -> Thumbnail:
    """Embed a whole grid of samples; UserError when it is missing or cannot be read."""
    return reencoded(path, GRID_SIDE)


def reencoded(path: Path, side: int) -> Thumbnail:
    """Embed the pixels of an image and nothing else that its file holds, at most `side` of them long or wide."""
    return _webp(read_image(path), side)


def _webp(image: Image.Image, side: int) -> Thumbnail:
    """Shrink `image` in place until its longer side is at most `side` pixels."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    return Thumbnail(data_uri(buffer.getvalue(), "webp"), image.height, image.width)


def data_uri(content: bytes, image_format: str) -> str:
    """Encode the bytes of an image file (`image_format` png, webp, ...) for the `src` of an <img>."""
    return f"data:image/{image_format};base64,{base64.b64encode(content).decode('ascii')}"
