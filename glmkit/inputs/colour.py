"""Any mode, bit depth and colour profile as sRGB with 8 bits a channel; what cannot be converted right is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms

from glmkit.errors import UserError

BLANK_RANGE = 16  # levels: an image that differs by less everywhere shows nothing
GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.02  # of a PNG that is meant for sRGB
SRGB_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue (x, y)
CHROMATICITY_TOLERANCE = 0.01
# Code points of ITU-T H.273: primaries of sRGB or unknown, and transfer functions that are shown like that of sRGB.
SRGB_PRIMARIES, SRGB_TRANSFERS = (1, 2), (1, 2, 6, 13, 14, 15)
CONVERT = 'convert it to sRGB: magick FILE -profile sRGB.icc NEW.png, or "convert to sRGB" in any editor'


def to_srgb(image: Image.Image, code_points: tuple[int, int] | None = None) -> tuple[Image.Image, list[str]]:
    """Convert a decoded image to RGB on white, and say in words what was changed beside the mode.

    `code_points`: primaries and transfer function (ITU-T H.273) where the file names them.
    UserError, without the image's name, for what has no right conversion and for one that is blank on white.
    """
    bits = image.info.get("bits", 8)
    colour, alpha = _take_apart(image, bits)
    changes = [f"of {bits} bits a channel, read as 8"] if bits > 8 else []
    colour, converted = _convert_colours(colour, image.info, code_points)
    changes += [converted] if converted else []
    if alpha is not None and alpha.getextrema() != (255, 255):
        colour.putalpha(alpha)
        colour = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
        if np.ptp(np.asarray(colour), axis=(0, 1)).max() < BLANK_RANGE:
            raise UserError("is transparent, and blank on white", fix="save it on a background of another colour")
        changes.append("with transparent parts, laid on white")
    colour.info = {}  # a profile that was applied must not be saved again
    return colour, changes


def stored_bits(image: Image.Image) -> int:
    """Return the bits of a channel in the file of an image that is opened, but not yet loaded; 8 where unknown."""
    match = re.search(r"'(?:I|L|LA|RGB|RGBA|RGBX|RGBa|CMYK);(\d+)", str(getattr(image, "tile", "")))
    return int(match[1]) if match else 8


def _take_apart(image: Image.Image, bits: int) -> tuple[Image.Image, Image.Image | None]:
    """Separate colours of 8 bits, in the image's colour space, from its transparency."""
    if image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise UserError(f"holds {kind}, which do not say what is white", fix="save it with 8 or 16 bits a channel")
    key = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        stored, most = np.asarray(image).astype(np.uint32), 2 ** (bits if bits > 8 else 16) - 1
        levels = Image.fromarray(((stored * 255 + most // 2) // most).clip(0, 255).astype(np.uint8))
        if getattr(image, "tag_v2", {}).get(262) == 0:  # TIFF: white is zero
            levels = ImageChops.invert(levels)
        return levels, None if key is None else Image.fromarray(np.where(stored == key, 0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image, None
    if key is not None and bits != 8:  # the file's value, but Pillow's levels
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key) if bits == 16 else key * 255 // (2**bits - 1)
    with_alpha = image.convert("RGBA")
    grey = image.mode in ("LA", "La", "L", "1")
    return with_alpha.convert("L" if grey else "RGB"), with_alpha.getchannel("A")


def _convert_colours(
    image: Image.Image, info: Mapping[Any, Any], code_points: tuple[int, int] | None
) -> tuple[Image.Image, str]:
    """Convert colours without transparency to sRGB; returns words for it, empty when nothing but the mode changed."""
    profile = info.get("icc_profile", b"")
    if not isinstance(profile, bytes):
        raise _broken_profile("it cannot be unpacked")
    if image.mode == "LAB" or profile:
        return _apply_profile(image, profile)
    if image.mode == "CMYK":
        return image.convert("RGB"), "of CMYK without a colour profile, converted by the plain formula"
    image = image.convert("RGB")
    if code_points is not None:
        if code_points[0] not in SRGB_PRIMARIES or code_points[1] not in SRGB_TRANSFERS:
            found = "primaries {}, transfer function {} (ITU-T H.273)".format(*code_points)
            raise UserError("has colours of a wide or high dynamic range", found=found, fix=CONVERT)
    elif "srgb" not in info:
        primaries = info.get("chromaticity", SRGB_CHROMATICITY)
        if not np.allclose(np.array(primaries), SRGB_CHROMATICITY, atol=CHROMATICITY_TOLERANCE, rtol=0):
            raise UserError("has other primary colours than sRGB", found=primaries, fix=CONVERT)
        gamma = info.get("gamma", GAMMA)
        if isinstance(gamma, float) and gamma > 0 and abs(gamma - GAMMA) > GAMMA_TOLERANCE:
            levels = [round(255 * (level / 255) ** (GAMMA / gamma)) for level in range(256)]
            return image.point(levels * 3), f"of gamma {gamma:.3g}, converted to sRGB"
    return image, ""


def _apply_profile(image: Image.Image, profile: bytes) -> tuple[Image.Image, str]:
    space, name = _described(profile) if profile else ("LAB", "CIELAB")
    if space == "RGB" and image.mode not in ("CMYK", "LAB"):
        image = image.convert("RGB")
    elif space == "GRAY" and image.mode == "1":
        image = image.convert("L")
    if {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "LAB": "LAB"}.get(space) != image.mode:
        raise UserError(
            "has a colour profile of another kind", found=f"{image.mode} with {name} ({space})", fix=CONVERT
        )
    transform = _transform(profile, image.mode)
    if transform is None:
        return image.convert("RGB"), ""
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted, f"of the colour profile {name}, converted to sRGB"


def _described(profile: bytes) -> tuple[str, str]:
    """Return the colour space and the name of an ICC profile."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = " ".join(ImageCms.getProfileDescription(opened).split())[:40]
        return opened.profile.xcolor_space.strip().upper(), name or "without a name"
    except (OSError, ImageCms.PyCMSError, UnicodeDecodeError) as error:
        raise _broken_profile(str(error)) from error


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Make the transform to sRGB; None for a profile of sRGB, under whatever name, whose pixels stay as they are."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        raise _broken_profile(str(error)) from error
    if mode in ("L", "RGB"):
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
        probe = Image.fromarray(colours)
        found = ImageCms.applyTransform(probe, transform)
        if np.abs(np.asarray(found, dtype=int) - np.asarray(probe.convert("RGB"), dtype=int)).max() <= 1:
            return None
    return transform


def _broken_profile(reason: str) -> UserError:
    return UserError("has a broken colour profile", found=reason, fix="save it again without it, or as sRGB")
