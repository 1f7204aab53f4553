"""Images as people have them: every mode, depth and profile is converted right or refused by name; nothing hangs."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_bytes import ADOBE, P3, SRGB, chunk, cmyk_profile, curve, profile, raw_png, rgb_profile, saved, with_chunk
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from glmkit.errors import UserError
from glmkit.inputs.images import as_rgb, read, read_image, read_mask


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def off(image: Image.Image, expected: Any) -> int:
    return int(np.abs(np.asarray(image, dtype=int) - expected).max())


COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
PHOTO = Image.fromarray(COLOURS)
RAMP = np.arange(256, dtype=np.uint16)[None] * 257
GREYS = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)


def white_text(mode: str = "RGBA", fill: Any = (255, 255, 255, 255)) -> Image.Image:
    image = Image.new(mode, (64, 32))
    ImageDraw.Draw(image).rectangle((10, 10, 30, 20), fill=fill)
    return image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("name", ["sRGB", "table", None])
def test_srgb_of_8_bits_stays_as_it_is(kind: str, name: str | None) -> None:
    """With a profile of sRGB of any maker, or none, the pixels are those that Pillow decodes."""
    icc = {
        "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "table": rgb_profile(SRGB, None),
        None: None,
    }[name]
    data = saved(PHOTO, kind, **({"lossless": True} if kind == "WEBP" else {}), icc_profile=icc)
    found = read(data, "it")
    assert same(found.image, Image.open(io.BytesIO(data)))
    assert (found.format, found.changes) == (kind, ())
    assert not found.image.info, "what was applied must not be saved again"


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(RAMP)),
        saved(Image.fromarray(RAMP), "TIFF"),
        saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
        saved(Image.fromarray(65535 - RAMP), "TIFF", tiffinfo={262: 0}),
        raw_png(16, 2, np.repeat(RAMP[0], 3).astype(">u2").tobytes(), 256),
        raw_png(16, 4, np.stack([RAMP[0], RAMP[0] * 0 + 65535], 1).astype(">u2").tobytes(), 256),
        raw_png(16, 6, np.stack([RAMP[0]] * 3 + [RAMP[0] * 0 + 65535], 1).astype(">u2").tobytes(), 256),
    ],
    ids=["grey", "TIFF", "big-endian", "white is zero", "RGB", "LA", "RGBA"],
)
def test_16_bits_become_8(data: bytes) -> None:
    found = read(data, "it")
    assert off(found.image, GREYS) == 0
    assert found.changes == ("of 16 bits a channel, read as 8",)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """A grey of about 119 in every mode, or white where there are two colours only."""
    values: dict[str, Any] = {
        "1": 1,
        "L": 119,
        "P": 5,
        "CMYK": (0, 0, 0, 136),
        "YCbCr": (119, 128, 128),
        "LAB": (128, 128, 128),
    }
    image = Image.new(mode, (4, 4), values[mode])
    if mode == "P":
        image.putpalette([119] * 768)
    found = read(saved(image, "PNG" if mode in ("1", "L", "P") else "TIFF"), "it").image
    expected = 255 if mode == "1" else 119
    assert off(found, expected) <= 1
    assert as_rgb(Image.new("HSV", (1, 1), (0, 255, 255))).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_white_are_refused(mode: str) -> None:
    with pytest.raises(UserError, match="do not say what is white"):
        read(saved(Image.new(mode, (4, 4), 7), "TIFF"), "it")


@pytest.mark.parametrize(
    ("icc", "level", "expected"),
    [
        (rgb_profile(P3, None), (0, 255, 0), (0, 255, 0)),
        (rgb_profile(P3, None), (200, 100, 100), (214, 95, 97)),
        (rgb_profile(ADOBE, 2.2), (200, 100, 100), (229, 98, 99)),
        (rgb_profile(SRGB, 1.0), (128, 128, 128), (188, 188, 188)),
    ],
    ids=["P3 green", "P3", "Adobe RGB", "linear"],
)
def test_profiles_of_rgb(icc: bytes, level: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Expected values by the formulas of the colour spaces, in float64."""
    found = read(saved(Image.new("RGB", (4, 4), level), icc_profile=icc), "it")
    assert off(found.image, expected) <= 2
    assert found.changes == ("of the colour profile test profile, converted to sRGB",)
    half = Image.new("RGBA", (4, 4), (*level, 255))
    half.putpixel((0, 0), (0, 0, 0, 0))
    both = read(saved(half, icc_profile=icc), "it")
    assert both.image.getpixel((1, 1)) == found.image.getpixel((1, 1))
    assert both.image.getpixel((0, 0)) == (255, 255, 255)
    assert len(both.changes) == 2


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "I;16"])
def test_profiles_of_grey(mode: str) -> None:
    """A grey profile belongs to grey; one of RGB belongs to grey, too, as many programs save it."""
    levels: dict[str, Any] = {"I;16": 128 * 257, "LA": (128, 255), "1": 1}
    image = Image.new(mode, (4, 4), levels.get(mode, 128))
    if mode == "P":
        image.putpalette([128] * 768)
    linear = profile(b"GRAY", {b"kTRC": curve(1.0)})
    expected = 255 if mode == "1" else 188
    for icc in (rgb_profile(SRGB, 1.0), linear) if mode != "P" else (rgb_profile(SRGB, 1.0),):
        found = read(saved(image, icc_profile=icc), "it").image
        assert off(found, expected) <= 1


def test_profiles_of_cmyk() -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 128))
    for kind in ("JPEG", "TIFF"):
        found = read(saved(image, kind, icc_profile=cmyk_profile()), "it").image
        assert off(found, 118) <= 3, "half black, without the cyan"
        (change,) = read(saved(image, kind), "it").changes
        assert "CMYK without a colour profile" in change


@pytest.mark.parametrize(
    ("icc", "mode"),
    [
        (b"no profile", "RGB"),
        (rgb_profile(P3, None)[:200], "RGB"),
        (rgb_profile(P3, None)[:140].ljust(600, b"\0"), "RGB"),
        (profile(b"GRAY", {b"kTRC": curve(1.0)}), "RGB"),
        (cmyk_profile(), "RGB"),
        (rgb_profile(P3, None), "CMYK"),
    ],
    ids=["garbage", "cut", "emptied", "grey in RGB", "CMYK in RGB", "RGB in CMYK"],
)
def test_broken_and_foreign_profiles_are_named(icc: bytes, mode: str) -> None:
    with pytest.raises(UserError, match=r"it has a (broken )?colour profile"):
        read(saved(Image.new(mode, (4, 4)), "TIFF", icc_profile=icc), "it")


def test_a_profile_that_cannot_be_unpacked_is_named() -> None:
    with pytest.raises(UserError, match="broken colour profile"):
        read(with_chunk(saved(PHOTO), b"iCCP", b"name\0\0garbage"), "it")


def test_gamma_and_other_words_for_colour_in_a_png() -> None:
    grey = saved(Image.new("RGB", (2, 2), (128, 128, 128)))
    assert read(with_chunk(grey, b"gAMA", struct.pack(">I", 45455)), "it").changes == ()
    assert read_image(with_chunk(grey, b"gAMA", struct.pack(">I", 100000)), "it").getpixel((0, 0)) == (186, 186, 186)
    wide = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    for kind, data in ((b"cHRM", wide), (b"cICP", bytes((9, 16, 0, 1))), (b"cICP", bytes((12, 13, 0, 1)))):
        with pytest.raises(UserError, match="it has"):
            read(with_chunk(grey, kind, data), "it")
    assert read(with_chunk(grey, b"cICP", bytes((1, 13, 0, 1))), "it").changes == ()


def test_adobe_rgb_of_a_camera_without_a_profile() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    exif._ifds[0xA005] = {1: "R03"}
    with pytest.raises(UserError, match="Adobe RGB by its EXIF"):
        read(saved(PHOTO, "JPEG", exif=exif), "it")


@pytest.mark.parametrize(
    "image",
    [white_text(), white_text("LA", (255, 255)), white_text("PA", 0), Image.new("RGBA", (8, 8), (9, 9, 9, 0))],
    ids=["RGBA", "LA", "PA", "all clear"],
)
def test_blank_on_white_is_refused(image: Image.Image) -> None:
    if image.mode == "PA":
        image.putpalette([255] * 768)
        image = image.convert("RGBA")
    with pytest.raises(UserError, match=r"it is transparent, and blank on white[\s\S]*another colour"):
        read(saved(image), "it")


@pytest.mark.parametrize(
    "data",
    [
        saved(white_text(fill=(200, 0, 0, 255))),
        saved(white_text(fill=(200, 0, 0, 255)), "WEBP", lossless=True),
        saved(white_text(fill=(200, 0, 0, 255)), "TIFF"),
        saved(white_text(fill=(200, 0, 0, 255)).quantize(4)),
        saved(white_text(fill=(200, 0, 0, 255)).convert("RGB"), transparency=(0, 0, 0)),
    ],
    ids=["RGBA", "WebP", "TIFF", "palette", "a colour of RGB"],
)
def test_transparent_parts_lie_on_white_and_are_told(data: bytes) -> None:
    found = read(data, "it")
    assert found.image.getpixel((0, 0)) == (255, 255, 255)
    assert found.image.getpixel((15, 15)) == (200, 0, 0)
    assert found.changes == ("with transparent parts, laid on white",)


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (16, 2)])
def test_a_transparent_level_of_any_depth(depth: int, colour: int) -> None:
    """The first pixel has the level 1 (of 16 bits: 257) that is transparent, the others are black."""
    level = 257 if depth == 16 else 1
    row = struct.pack(">H", level) * (3 if colour else 1) if depth == 16 else bytes([level << (8 - depth)])
    width = max(4, 8 // depth) if depth >= 8 else 8 // depth
    row = row.ljust(width * max(1, depth // 8) * (3 if colour else 1), b"\0")
    clear = chunk(b"tRNS", struct.pack(">H", level) * (3 if colour else 1))
    found = read_image(raw_png(depth, colour, row, width, clear), "it")
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert found.getpixel((1, 0)) == (0, 0, 0)


@pytest.mark.parametrize("turn", range(1, 9))
def test_images_are_turned_upright(turn: int) -> None:
    exif = Image.Exif()
    exif[274] = turn
    image = Image.new("RGB", (32, 16))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    found = read(saved(image, exif=exif), "it")
    corner = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[turn]
    assert found.image.size == ((32, 16) if turn < 5 else (16, 32))
    (right, bottom), (width, height) = corner, found.image.size
    assert found.image.getpixel((right * (width - 1), bottom * (height - 1))) == (255, 255, 255)
    assert found.changes == (("turned upright",) if turn > 1 else ())


def test_broken_exif_says_nothing() -> None:
    assert read(saved(PHOTO, exif=b"Exif\0\0garbage"), "it").changes == ()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_of_several_frames(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    found = read(
        saved(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        ),
        "it",
    )
    assert off(found.image, (255, 0, 0)) <= 3
    assert found.changes == ("of several frames, of which the first is read",)


@pytest.mark.parametrize(("compressed", "key"), [(True, "workflow"), (False, "prompt"), (True, "XML:com.adobe.xmp")])
def test_text_beside_the_pixels_may_be_of_any_length(compressed: bool, key: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text(key, "node " * 500_000, zip=compressed)
    info.add_itxt(key, "node " * 500_000, zip=compressed)
    assert same(read_image(saved(PHOTO, pnginfo=info), "it"), PHOTO)


def loop_in_postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n%%EOF\n")


def bomb(path: Path) -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + raw_png(1, 0, bytes(1), 8)[33:])


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "PostScript": (loop_in_postscript, "not an image[\\s\\S]*PostScript"),
    "PDF": (lambda path: path.write_bytes(b"%PDF-1.7\n"), "not an image[\\s\\S]*PDF"),
    "SVG": (lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image[\\s\\S]*SVG"),
    "WMF": (lambda path: path.write_bytes(b"\xd7\xcd\xc6\x9a" + bytes(40)), "not an image[\\s\\S]*WMF"),
    "HEIC": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40)), "not an image[\\s\\S]*HEIC"),
    "JPEG 2000": (lambda path: PHOTO.save(path, "JPEG2000"), "not an image[\\s\\S]*JPEG 2000"),
    "PPM": (lambda path: PHOTO.save(path, "PPM"), "not an image"),
    "Git LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "empty": (lambda path: path.touch(), "an empty file"),
    "cut": (lambda path: path.write_bytes(saved(PHOTO)[:200]), "cannot be read"),
    "bomb": (bomb, "cannot be read"),
    "no file": (lambda _: None, "does not exist"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "does not exist[\\s\\S]*nowhere"),
    "loop of links": (lambda path: path.symlink_to(path.name), "cannot be read"),
    "folder": (lambda path: path.mkdir(), "cannot be read[\\s\\S]*a folder"),
    "pipe": (os.mkfifo, "cannot be read[\\s\\S]*a pipe"),
    "socket": (bound_socket, "cannot be read[\\s\\S]*a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "cannot be read[\\s\\S]*a device"),
    "terabyte": (sparse, "too large"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("reader", [read, read_mask])
def test_what_cannot_be_read_is_named(tmp_path: Path, kind: str, reader: Callable[[Path], object]) -> None:
    make, said = UNREADABLE[kind]
    path = tmp_path / "image.png"
    make(path)
    with pytest.raises(UserError, match=said) as caught:
        reader(path)
    assert str(path) in caught.value.what


@pytest.mark.parametrize(
    "mask",
    [
        white_text("L", 255),
        white_text("1", 1),
        white_text("L", 1),
        white_text("RGB", (255, 255, 255)),
        white_text("RGBA"),
        white_text("I;16", 65535),
    ],
    ids=["L", "1", "0 and 1", "RGB", "white paint on clear ground", "16 bits"],
)
def test_masks(mask: Image.Image) -> None:
    assert same(read_mask(saved(mask), "it"), white_text("L", 255))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (white_text("RGBA", (0, 0, 0, 255)), "transparency alone"),
        (white_text("L", 3), "dark everywhere"),
    ],
    ids=["black paint on clear ground", "labels"],
)
def test_masks_that_may_mean_either_are_refused(mask: Image.Image, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_mask(saved(mask), "it")


def test_pillow_says_nothing_beside_the_error(tmp_path: Path) -> None:
    """A TIFF of 500 samples a pixel, for which Pillow logs a line that names no file."""
    data = bytearray(saved(PHOTO, "TIFF"))
    at = data.index(struct.pack("<HHI", 277, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 500)
    (tmp_path / "a.tiff").write_bytes(data)
    code = f"from glmkit.inputs.images import read; read({str(tmp_path / 'a.tiff')!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.startswith("Traceback")
    assert "is not an image" in result.stderr


def test_no_image_is_opened_without_its_formats() -> None:
    """Whatever reads around the one reader must not run PostScript either."""
    package = Path(__file__).parents[2] / "glmkit"
    lines = [line for path in package.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    opened = [line for line in lines if "Image.open(" in line]
    assert opened
    assert all("formats=" in line for line in opened)
