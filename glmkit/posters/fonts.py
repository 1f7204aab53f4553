"""Load and measure the typefaces of the poster world."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

HERE = Path(__file__).parent / "fonts"
MEASURED_AT = 200


@dataclass(frozen=True)
class Typeface:
    """A font file and the family word that captions use for it."""

    file: str
    family: str


TYPEFACES = {
    "roboto": Typeface("roboto-latin-800-normal.woff", "sans"),
    "lato": Typeface("lato-latin-900-normal.woff", "sans"),
    "montserrat": Typeface("montserrat-latin-800-normal.woff", "wide"),
    "roboto-slab": Typeface("roboto-slab-latin-800-normal.woff", "slab"),
    "nunito": Typeface("nunito-latin-900-normal.woff", "rounded"),
    "playfair": Typeface("playfair-display-latin-900-normal.woff", "serif"),
}
STYLE_TYPEFACE = "playfair"  # set aside for the fine-tuning set: no training poster uses it
TRAINING_TYPEFACES = tuple(name for name in TYPEFACES if name != STYLE_TYPEFACE)


@dataclass(frozen=True)
class Proportions:
    """Heights of a typeface as shares of its size in pixels, each a positive distance from the baseline."""

    capital: float
    ascender: float
    descender: float


@lru_cache(maxsize=1024)
def load(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load the typeface at `size` pixels, with basic layout, because that needs no library that some machines lack."""
    path = HERE / TYPEFACES[name].file
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def proportions(name: str) -> Proportions:
    """Measure the heights of a typeface."""
    font = load(name, MEASURED_AT)
    capital = -font.getbbox("H", anchor="ls")[1]
    ascender, descender = -font.getbbox("dkl$", anchor="ls")[1], font.getbbox("gpy,$", anchor="ls")[3]
    return Proportions(capital / MEASURED_AT, ascender / MEASURED_AT, descender / MEASURED_AT)


def unit_width(name: str, text: str) -> float:
    """Measure the width of `text` in pixels per pixel of font size."""
    return load(name, MEASURED_AT).getlength(text) / MEASURED_AT
