"""Load and measure the typefaces: those of `glmkit.posters.fonts`, and more for free text and for Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

from glmkit.posters import fonts as plain

HERE = Path(__file__).parent / "fonts"
MEASURED_AT = 200


@dataclass(frozen=True)
class Face:
    """A font file, and the family word that captions of its language use for it."""

    path: Path
    family: str
    language: str = "en"


TYPEFACES = {
    **{
        name: Face(plain.HERE / face.file, face.family)
        for name, face in plain.TYPEFACES.items()
        if name != plain.STYLE_TYPEFACE
    },
    "merriweather": Face(HERE / "merriweather-latin-900-normal.woff", "serif"),
    "oswald": Face(HERE / "oswald-latin-700-normal.woff", "condensed"),
    "caveat": Face(HERE / "caveat-latin-700-normal.woff", "handwritten"),
    "noto-sans-sc": Face(HERE / "noto-sans-sc.woff", "黑体", "zh"),
    "noto-serif-sc": Face(HERE / "noto-serif-sc.woff", "宋体", "zh"),
    "zcool-xiaowei": Face(HERE / "zcool-xiaowei.woff", "小薇体", "zh"),
}
ENGLISH = tuple(name for name, face in TYPEFACES.items() if face.language == "en")
CHINESE = tuple(name for name, face in TYPEFACES.items() if face.language == "zh")


@lru_cache(maxsize=2048)
def load(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load the typeface at `size` pixels."""
    return ImageFont.truetype(str(TYPEFACES[name].path), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def heights(name: str) -> tuple[float, float]:
    """Return how far letters reach above and below the baseline, as shares of the size."""
    text = "国永我" if TYPEFACES[name].language == "zh" else "HdkÉ"
    font = load(name, MEASURED_AT)
    return -font.getbbox(text, anchor="ls")[1] / MEASURED_AT, font.getbbox("gpy,永", anchor="ls")[3] / MEASURED_AT


@cache
def capital(name: str) -> float:
    """Return the height of capitals, of Chinese characters in a Chinese typeface, as a share of the size."""
    text = "国" if TYPEFACES[name].language == "zh" else "H"
    return -load(name, MEASURED_AT).getbbox(text, anchor="ls")[1] / MEASURED_AT


def unit_width(name: str, text: str) -> float:
    """Return the width of `text` in pixels per pixel of font size."""
    return load(name, MEASURED_AT).getlength(text) / MEASURED_AT
