"""Images that people bring: files of any kind as upright sRGB with 8 bits a channel, transparent regions on white.

Only the formats named here are opened, by Pillow's own decoders: no file starts another program (Pillow hands
PostScript to Ghostscript).
"""

from __future__ import annotations

import importlib
import io
import logging
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from glmkit.errors import UserError
from glmkit.files import read_regular
from glmkit.inputs.colour import CONVERT, stored_bits, to_srgb

SUFFIXES = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JXL": (".jxl",),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
MAX_BYTES = 2**30  # 179 million pixels, which Pillow takes for a bomb, fit in uncompressed
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What else lies under the name of an image; the first bytes from an offset on.
FOREIGN = (
    (0, b"%!", "PostScript"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"\xff\x0a", "JPEG XL; pip install pillow-jxl-plugin to read it"),
    (4, b"JXL ", "JPEG XL; pip install pillow-jxl-plugin to read it"),
    (4, b"jP  ", "JPEG 2000"),
    (4, b"ftyp", "HEIC, or AVIF that Pillow cannot read"),
    (0, b"version https://git-lfs", "a pointer of Git LFS; git lfs pull fetches the image"),
    (0, b"<", "HTML, SVG or XML"),
)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ReadImage(NamedTuple):
    """An image as upright sRGB, the format of its file, and in words what was changed to make it so."""

    image: Image.Image
    format: str
    changes: tuple[str, ...]


def read(source: str | Path | bytes, name: str = "") -> ReadImage:
    """Read an image file, or its bytes; UserError with its name when it is missing, broken or of an unknown kind."""
    name = name or f"image {source!s}"
    with opened_image(source, name) as opened:
        return _converted(opened, name)


def read_image(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Read an image as RGB, upright, transparent regions on white; errors as `read`."""
    return read(source, name).image


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image in memory as `read` converts a file."""
    return _converted(image, "the image").image


def read_mask(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Read a mask as levels, 255 on what it marks; white paint may lie on transparent ground.

    Its levels are numbers: no colour profile changes them. A mask of 0 and 1 is taken as 0 and 255. UserError as
    `read`, and for a mask that is dark everywhere although it marks something.
    """
    name = name or f"image {source!s}"
    with opened_image(source, name) as opened:
        alpha = opened.convert("RGBA").getchannel("A") if opened.has_transparency_data else None
        if opened.mode in ("CMYK", "LAB") or opened.mode[0] in "IF":
            mask = _converted(opened, name).image.convert("L")
        else:
            mask = _upright(opened, opened.convert("RGB").convert("L"))
        if alpha is not None and alpha.getextrema() != (255, 255):
            mask = Image.composite(mask, Image.new("L", mask.size), _upright(opened, alpha))
            if not mask.getbbox():
                fix = "save it as white on black"
                raise UserError(f"{name} tells by transparency alone what it marks, which may mean either", fix=fix)
    brightest = int(np.asarray(mask).max())
    if brightest == 1:
        return mask.point(lambda level: 255 * level)
    if 0 < brightest < 128:
        raise UserError(f"{name} is dark everywhere", found=f"{brightest} of 255 at most", fix="mark with white, 255")
    return mask


@contextmanager
def opened_image(source: str | Path | bytes, name: str = "") -> Iterator[Image.Image]:
    """Open an image, loaded as it is stored, with `format`, `mode` and `info` of the file; errors as `read`."""
    name = name or f"image {source!s}"
    data = source if isinstance(source, bytes) else read_regular(source, name, MAX_BYTES)
    with _errors_of(data, name), _with_any_text(data, _loaded) as image:
        yield image


def stored_size(source: Path, name: str) -> tuple[int, int]:
    """Return width and height in pixels, as the header of an image file says; errors as `read_image`.

    Nothing is decoded.
    """
    data = read_regular(source, name, MAX_BYTES)
    with _errors_of(data, name), _with_any_text(data, _opened) as image:
        return image.size


@contextmanager
def _errors_of(data: bytes, name: str) -> Iterator[None]:
    """Turn what goes wrong with an image file into UserError."""
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError as error:
        kinds = "PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF"
        raise UserError(f"{name} is not an image", found=_foreign(data), fix=f"a {kinds} file") from error
    except Exception as error:  # decoders raise anything for broken files
        found = error if str(error) else type(error).__name__
        raise UserError(f"{name} cannot be read", found=found, fix="save it again, or use another one") from error


def _with_any_text(data: bytes, read: Callable[[bytes], Image.Image]) -> Image.Image:
    """Read; text beside a PNG's pixels, such as the workflows of ComfyUI, may be of any length."""
    try:
        return read(data)
    except ValueError:
        if not data.startswith(PNG_SIGNATURE):
            raise
        return read(_without_text(data))


@cache
def _formats() -> list[str]:
    """Return the formats that are read here, with JPEG XL where its plugin is installed."""
    with suppress(ImportError):
        importlib.import_module("pillow_jxl")
    Image.init()
    # What Pillow says of a file beside its error names no file, and what it reads twice as large is no bomb yet.
    warnings.filterwarnings("ignore", module=r"PIL\b")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    return [kind for kind in SUFFIXES if kind in Image.OPEN]


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_formats())


def _loaded(data: bytes) -> Image.Image:
    image = _opened(data)
    image.info["bits"] = stored_bits(image)
    image.info["code_points"] = _code_points(data)
    image.info["animated"] = getattr(image, "is_animated", False) and image.format != "MPO"
    image.load()
    return image


def _converted(opened: Image.Image, name: str) -> ReadImage:
    """Convert to sRGB and turn upright."""
    try:
        if not opened.info.get("icc_profile") and _is_adobe_rgb(opened):
            raise UserError("is in Adobe RGB by its EXIF data, without a colour profile", fix=CONVERT)
        image, changes = to_srgb(opened, opened.info.get("code_points"))
    except UserError as error:
        raise UserError(f"{name} {error.what}", found=error.found, fix=error.fix) from error
    if opened.info.get("animated"):
        changes.append("of several frames, of which the first is read")
    upright = _upright(opened, image)
    if upright is not image:
        changes.append("turned upright")
    return ReadImage(upright, opened.format or "", tuple(changes))


def _upright(opened: Image.Image, image: Image.Image) -> Image.Image:
    """Turn `image` as the EXIF data of `opened` says; broken EXIF data say nothing."""
    try:
        turn = TURNS.get(opened.getexif().get(0x0112, 1))
    except Exception:  # a parser of bytes that anyone wrote
        turn = None
    return image if turn is None else image.transpose(turn)


def _is_adobe_rgb(opened: Image.Image) -> bool:
    """Tell whether a camera marked its file as Adobe RGB, which by its standard needs no colour profile."""
    try:
        return opened.getexif().get_ifd(0xA005).get(1) in ("R03", b"R03")
    except Exception:  # as above
        return False


def _chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of every chunk of a PNG, and where the chunk begins and ends."""
    start = len(PNG_SIGNATURE)
    while start + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, start)
        yield kind, start, start + 12 + length
        start += 12 + length


def _without_text(png: bytes) -> bytes:
    kept = (png[start:end] for kind, start, end in _chunks(png) if kind not in (b"tEXt", b"zTXt", b"iTXt"))
    return PNG_SIGNATURE + b"".join(kept)


def _code_points(data: bytes) -> tuple[int, int] | None:
    """Find primaries and transfer function (ITU-T H.273) that a PNG or an AVIF names, which Pillow passes over."""
    if data.startswith(PNG_SIGNATURE):
        for kind, start, _ in _chunks(data):
            if kind == b"cICP":
                return data[start + 8], data[start + 9]
            if kind == b"IDAT":
                break
    elif data[4:8] == b"ftyp" and (start := data.find(b"colrnclx", 0, 2**16)) > 0:
        primaries, transfer = struct.unpack_from(">HH", data, start + 8)
        return int(primaries), int(transfer)
    return None


def _foreign(data: bytes) -> str | None:
    """Name what the bytes are instead; None where unknown."""
    if not data.strip(b"\0"):
        return "nothing but zeros" if data else "an empty file"
    head = data[:64].lstrip(b"\xef\xbb\xbf \r\n\t")
    return next((name for at, start, name in FOREIGN if head[at:].startswith(start)), None)
