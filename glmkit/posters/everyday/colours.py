"""Colours by name, in English and Chinese. Most RGB values are those of CSS (W3C, CSS Color Module Level 4)."""

from __future__ import annotations

import random
from functools import cache

import numpy as np

from glmkit.posters.grammar import Rgb, contrast

# English name: sRGB bytes, Chinese name ("" where none is common).
COLOURS: dict[str, tuple[Rgb, str]] = {
    "white": ((250, 249, 246), "白色"),
    "black": ((20, 20, 24), "黑色"),
    "grey": ((134, 138, 144), "灰色"),
    "light grey": ((208, 211, 214), "浅灰色"),
    "dark grey": ((70, 74, 80), "深灰色"),
    "red": ((214, 36, 42), "红色"),
    "dark red": ((139, 10, 16), "深红色"),
    "light red": ((246, 112, 110), "浅红色"),
    "crimson": ((190, 20, 60), ""),
    "orange": ((246, 130, 24), "橙色"),
    "light orange": ((255, 190, 120), "浅橙色"),
    "dark orange": ((206, 92, 10), "深橙色"),
    "yellow": ((253, 213, 50), "黄色"),
    "light yellow": ((254, 243, 170), "浅黄色"),
    "pale yellow": ((253, 240, 184), "淡黄色"),
    "green": ((34, 140, 70), "绿色"),
    "light green": ((148, 216, 140), "浅绿色"),
    "dark green": ((14, 78, 42), "深绿色"),
    "lime": ((160, 214, 40), ""),
    "olive": ((118, 118, 30), "橄榄色"),
    "mint": ((166, 226, 196), "薄荷绿"),
    "teal": ((20, 136, 140), "青色"),
    "turquoise": ((52, 206, 196), ""),
    "cyan": ((40, 208, 232), ""),
    "blue": ((36, 86, 206), "蓝色"),
    "light blue": ((150, 200, 246), "浅蓝色"),
    "sky blue": ((120, 194, 240), "天蓝色"),
    "dark blue": ((16, 32, 108), "深蓝色"),
    "navy": ((18, 28, 76), "藏青色"),
    "indigo": ((66, 16, 130), ""),
    "purple": ((116, 50, 168), "紫色"),
    "light purple": ((196, 164, 232), "浅紫色"),
    "dark purple": ((64, 20, 96), "深紫色"),
    "lavender": ((222, 214, 248), ""),
    "violet": ((148, 84, 212), ""),
    "lilac": ((196, 168, 224), ""),
    "magenta": ((214, 30, 158), ""),
    "pink": ((248, 158, 192), "粉色"),
    "light pink": ((254, 206, 220), "浅粉色"),
    "hot pink": ((250, 72, 152), "玫红色"),
    "salmon": ((248, 140, 122), ""),
    "coral": ((252, 118, 86), "珊瑚色"),
    "peach": ((254, 206, 172), ""),
    "brown": ((112, 66, 38), "棕色"),
    "light brown": ((184, 136, 92), "浅棕色"),
    "dark brown": ((64, 36, 20), "深棕色"),
    "chocolate": ((98, 50, 22), ""),
    "tan": ((208, 178, 136), ""),
    "beige": ((240, 228, 200), "米色"),
    "cream": ((252, 246, 220), "奶油色"),
    "ivory": ((252, 250, 234), "象牙白"),
    "gold": ((212, 166, 42), "金色"),
    "silver": ((190, 194, 200), "银色"),
    "bronze": ((168, 110, 50), ""),
    "maroon": ((112, 12, 30), ""),
    "burgundy": ((112, 16, 44), "酒红色"),
    "wine red": ((114, 22, 50), ""),
    "rust": ((174, 72, 34), ""),
    "mustard": ((216, 168, 32), ""),
    "khaki": ((196, 184, 130), ""),
    "slate": ((84, 100, 116), ""),
    "charcoal": ((52, 56, 62), ""),
    "midnight blue": ((24, 26, 92), ""),
    "royal blue": ((58, 92, 220), "宝蓝色"),
    "forest green": ((30, 110, 44), "墨绿色"),
    "plum": ((138, 56, 118), ""),
}
ALIASES = {"grey": "gray", "light grey": "light gray", "dark grey": "dark gray"}
MOST_NAMED = ("white", "black", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "grey", "navy",
              "gold", "cream", "teal", "beige", "light blue", "dark green", "dark blue")  # fmt: skip
MIN_TEXT_CONTRAST = 3.0
MIN_ASKED_CONTRAST = 1.6  # of colours that a caption names: gold on red, orange on white
MIN_SHAPE_CONTRAST = 1.4
CLEAR_DIFFERENCE = 25.0  # Euclidean distance in CIELAB (CIE 1976)
TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))  # from linear sRGB


def sample(rng: random.Random) -> str:
    """Sample a name; common ones half of the time."""
    return rng.choice(MOST_NAMED) if rng.random() < 0.5 else rng.choice(tuple(COLOURS))


@cache
def readable_on(background: str, least: float = MIN_TEXT_CONTRAST) -> tuple[str, ...]:
    """Return the names whose contrast ratio with `background` is at least `least`."""
    return tuple(name for name, (rgb, _) in COLOURS.items() if contrast(rgb, COLOURS[background][0]) >= least)


def sample_on(background: str, rng: random.Random, least: float = MIN_TEXT_CONTRAST) -> str:
    """Sample a name that is readable on `background`; a common one half of the time, white or black in a quarter."""
    allowed = readable_on(background, least)
    for names, share in ((("white", "black"), 0.25), (MOST_NAMED, 0.5)):
        common = [name for name in names if name in allowed]
        if common and rng.random() < share:
            return rng.choice(common)
    return rng.choice(allowed)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB bytes ... 3 to CIELAB, D65: ... 3, L from 0 to 100 (IEC 61966-2-1 and CIE 15:2004)."""
    shares = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(TO_XYZ).T / np.sum(TO_XYZ, axis=1)
    bent = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(bent, -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


@cache
def are_different(first: str, second: str) -> bool:
    """Tell whether people who see two colours by name will not take them for one."""
    values = lab(np.array([COLOURS[first][0], COLOURS[second][0]]))
    return bool(np.linalg.norm(values[0] - values[1]) >= CLEAR_DIFFERENCE)
