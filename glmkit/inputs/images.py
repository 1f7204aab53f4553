"""Images that people bring: files of any kind as upright RGB, with clear errors."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from glmkit.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_image(path: str | Path) -> Image.Image:
    """Read an image as RGB, upright, transparent regions on white; UserError when it is missing or broken."""
    path = Path(path)
    try:
        with Image.open(path) as opened:
            return as_rgb(opened)
    except FileNotFoundError as error:
        raise UserError(f"image {path} does not exist", fix="check the path") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image", fix="a PNG, JPEG or WebP file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read", found=error, fix="save it again, or use another one") from error


def as_rgb(opened: Image.Image) -> Image.Image:
    """Turn an opened image upright and into RGB, transparent regions on white; raises what the decoder raises."""
    opened.load()
    return on_white(ImageOps.exif_transpose(opened))


def on_white(image: Image.Image) -> Image.Image:
    """Convert to RGB, transparent regions on white."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
