"""The images of one page: inside it as data URIs, or as files beside it that a browser loads as one scrolls."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from glmkit.errors import UserError
from glmkit.files import atomic_path
from glmkit.inputs.images import read
from glmkit.reporting.recognized import Box
from glmkit.reporting.thumbnails import Thumbnail, data_uri

TILES = "tiles"  # the folder beside a page
CROP_QUALITY = 65
PNG_BYTES = 2  # times those of WebP: a PNG below stays as it is in a page of one file, with its exact pixels
FAST_SIDE = 512  # pixels: above, WebP is encoded with less effort, which costs a few percent of size
SAMPLE = 8  # images whose size stands for all
CROPS = 1.5  # times the bytes of the images that a page has with the crops of their misread words
BASE64 = 4 / 3


@dataclass(frozen=True)
class Detail:
    """How images are shown: the longer side in pixels at most, and the quality of WebP (0 to 100)."""

    side: int
    quality: int


SMALL = Detail(288, 76)  # as wide as a page shows an image
# From letters that can be read to what only tells images apart; the first three are for a page in one file.
DETAILS = (Detail(1024, 80), Detail(512, 76), SMALL, Detail(288, 55), Detail(224, 45))
IN_FILE = 3
MAX_TILES_BYTES = 27_000_000  # all files of a folder: with its page and data it stays under 40 MB


@dataclass
class ImageStore:
    """Encode images with `detail`: inside the page, or, with a `folder`, in its sub-folder `TILES`.

    `is_whole` stays true while no image was made smaller than its file.
    """

    detail: Detail
    folder: Path | None = None
    is_whole: bool = field(default=True, init=False)

    def open(self, path: Path) -> tuple[Image.Image, Thumbnail]:
        """Read an image file; returns its pixels and what the page shows. UserError when it cannot be read."""
        image, image_format, _ = read(path)
        content, size = encode(image, self.detail.quality, self.detail.side)
        if size != image.size:
            self.is_whole = False
        elif self.folder is None and image_format == "PNG" and path.stat().st_size <= PNG_BYTES * len(content):
            return image, self._stored(path.read_bytes(), "png", size)
        return image, self._stored(content, "webp", size)

    def crop(self, image: Image.Image, box: Box) -> Thumbnail | None:
        """Store the pixels of a box, at full resolution; None when it lies outside the image."""
        left, top = max(0, round(box[0])), max(0, round(box[1]))
        right, bottom = min(image.width, round(box[2])), min(image.height, round(box[3]))
        if left >= right or top >= bottom:
            return None
        return self._webp(image.crop((left, top, right, bottom)), CROP_QUALITY)

    def _webp(self, image: Image.Image, quality: int, side: int | None = None) -> Thumbnail:
        content, size = encode(image, quality, side)
        return self._stored(content, "webp", size)

    def _stored(self, content: bytes, image_format: str, size: tuple[int, int]) -> Thumbnail:
        """Give the bytes of an image file an address; equal bytes have the same file."""
        width, height = size
        if self.folder is None:
            return Thumbnail(data_uri(content, image_format), height, width)
        name = f"{TILES}/{hashlib.sha256(content).hexdigest()[:16]}.{image_format}"
        with atomic_path(self.folder / name, flush=False) as temporary:  # its folder is flushed as a whole
            temporary.write_bytes(content)
        return Thumbnail(name, height, width)


def encode(image: Image.Image, quality: int, side: int | None = None) -> tuple[bytes, tuple[int, int]]:
    """Encode as WebP, made smaller until the longer side has `side` pixels; returns bytes, and width and height."""
    if side is not None and max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2 if max(image.size) > FAST_SIDE else 4)
    return buffer.getvalue(), image.size


def fitting_details(paths: Sequence[Path], max_bytes: int) -> tuple[Detail, ...]:
    """Return the details with which a page in one file may stay under `max_bytes`, the best first; perhaps none.

    A sample of the images, evenly spread, stands for all.
    """
    return tuple(detail for detail in DETAILS[:IN_FILE] if CROPS * BASE64 * total_bytes(paths, detail) <= max_bytes)


def tiles_detail(paths: Sequence[Path]) -> Detail:
    """Return the best detail for a folder with which all tiles stay under `MAX_TILES_BYTES`, else the least."""
    details = DETAILS[IN_FILE - 1 :]
    return next((one for one in details if CROPS * total_bytes(paths, one) <= MAX_TILES_BYTES), details[-1])


def total_bytes(paths: Sequence[Path], detail: Detail) -> float:
    """Estimate the bytes of all images from a sample; files that cannot be read count nothing."""
    sample = paths[:: max(1, len(paths) // SAMPLE)][:SAMPLE]
    sizes = []
    for path in sample:
        try:
            sizes.append(len(encode(read(path).image, detail.quality, detail.side)[0]))
        except UserError:
            continue
    return len(paths) * sum(sizes) / len(sizes) if sizes else 0.0
