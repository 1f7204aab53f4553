"""Sample scenes of the poster world, and describe them in captions.

A `Scene` is the complete ground truth of one poster; everything else (mask, image, caption, checks) follows from it.
Texts never touch shapes, so every text stands on the background colour alone. All lengths scale with the shorter side.
Pixel positions count from the top left corner; a baseline is the row on which letters stand.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from glmkit.posters import fonts
from glmkit.posters.words import Split, sample_text

Rgb = tuple[int, int, int]  # sRGB bytes
NamedColours = Mapping[str, Rgb]

COLOURS: dict[str, Rgb] = {
    "white": (250, 249, 245),
    "black": (22, 22, 26),
    "grey": (134, 140, 148),
    "red": (212, 36, 44),
    "orange": (245, 128, 24),
    "yellow": (252, 210, 60),
    "green": (34, 139, 72),
    "teal": (24, 160, 164),
    "blue": (36, 84, 204),
    "purple": (114, 54, 170),
    "pink": (246, 158, 190),
    "brown": (112, 68, 40),
}
# Shapes that no reader takes for a character: rings are read as O, squares and diamonds as bullets.
SHAPES = ("circle", "triangle", "hexagon", "star", "burst", "stripe")
POSITIONS = ("top", "middle", "bottom")
ALIGNMENTS = ("left", "right")  # edges to which lines can be aligned; otherwise they are centred
NOUNS = ("poster", "poster", "sign", "card")
NO_SHAPE_SHARE = 0.12
SECOND_LINE_SHARE = 0.35
MIN_TEXT_CONTRAST = 3.0
MIN_SHAPE_CONTRAST = 1.5
MARGIN = 0.08  # of the shorter side, between the edge and the nearest text or shape
GAP = 0.045  # of the shorter side, between the lines and between text and shape
MAX_LINE_WIDTH = 0.92  # of the width
MIN_RADIUS, MAX_RADIUS = 0.065, 0.2  # of the shorter side
THIN_FRAME = 0.02  # of the shorter side: captions call a thinner frame thin, any other thick
CAPITALS = (28 / 256, 64 / 256)  # lowest and highest capitals of a headline, of the shorter side
SECOND_SIZES = (21 / 256, 34 / 256)  # font size of a second line, of the shorter side


@dataclass(frozen=True)
class Line:
    """One line of text: its font size and the row of its baseline."""

    text: str
    size: int
    baseline: int


@dataclass(frozen=True)
class Shape:
    """One flat shape, or none. `position` is what captions say, (x, y) and `radius` what is rendered."""

    kind: str = "none"
    colour: str = ""
    position: str = ""
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.0


@dataclass(frozen=True)
class Frame:
    """A border in the colour of the letters: pixels from the edge to its outer side, and its thickness; 0 for none."""

    gap: int = 0
    thickness: int = 0


@dataclass(frozen=True)
class Scene:
    """Ground truth of one poster: one or two lines of text in one typeface and colour, and at most one shape.

    `position` is that of the text; `alignment` is the edge to which its lines are aligned, one of ALIGNMENTS, or
    "centre".
    """

    height: int
    width: int
    background: str
    text_colour: str
    font: str
    position: str
    lines: tuple[Line, ...]
    shape: Shape
    frame: Frame = Frame()
    alignment: str = "centre"

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the texts in reading order: the headline, then the second line if there is one."""
        return tuple(line.text for line in self.lines)

    @property
    def size_word(self) -> str:
        """Return the caption's word for the size of the headline, from the height of its capitals."""
        capitals = self.lines[0].size * fonts.proportions(self.font).capital / min(self.height, self.width)
        return "huge" if capitals > 0.195 else "large" if capitals > 0.14 else "medium"

    @property
    def text_rows(self) -> tuple[float, float]:
        """Return the first and last pixel row that a letter can touch."""
        first, last, heights = self.lines[0], self.lines[-1], fonts.proportions(self.font)
        return first.baseline - heights.ascender * first.size, last.baseline + heights.descender * last.size


def sample_scene(
    rng: random.Random,
    *,
    height: int = 256,
    width: int = 256,
    split: Split = "train",
    typefaces: tuple[str, ...] = fonts.TRAINING_TYPEFACES,
    headline: str | None = None,
) -> Scene:
    """Sample one poster's ground truth. The same `rng` state and arguments give the same scene.

    A `headline` of None is sampled like every text.
    """
    font, position = rng.choice(typefaces), rng.choice(POSITIONS)
    if headline is None:
        headline = sample_text(rng, split)
    texts, sizes = [headline], [_sample_headline_size(rng, font, headline, height, width)]
    if rng.random() < SECOND_LINE_SHARE:
        texts.append(sample_text(rng, split, longest=10))
        sizes.append(_sample_second_size(rng, font, texts[1], sizes[0], height, width))
    lines = tuple(map(Line, texts, sizes, _baselines(font, position, sizes, height, width)))
    return recolour(Scene(height, width, "white", "black", font, position, lines, Shape()), rng)


def recolour(scene: Scene, rng: random.Random) -> Scene:
    """Return the same letters at the same position, with new colours and a new shape: the text mask stays valid."""
    background = rng.choice(tuple(COLOURS))
    text_colour = rng.choice(readable_on(background))
    scene = replace(scene, background=background, text_colour=text_colour, shape=Shape())
    return scene if rng.random() < NO_SHAPE_SHARE else replace(scene, shape=_sample_shape(scene, rng))


def contrast(first: Rgb, second: Rgb) -> float:
    """Return the contrast ratio of two sRGB colours, 1 to 21 (WCAG 2.2, definition of contrast ratio)."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Rgb) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@cache
def readable_on(background: str, min_contrast: float = MIN_TEXT_CONTRAST) -> tuple[str, ...]:
    """Return the names of the colours whose contrast ratio with `background` is at least `min_contrast`."""
    return tuple(name for name, rgb in COLOURS.items() if contrast(rgb, COLOURS[background]) >= min_contrast)


def _sample_headline_size(rng: random.Random, font: str, text: str, height: int, width: int) -> int:
    shorter, capital, unit = min(height, width), fonts.proportions(font).capital, fonts.unit_width(font, text)
    sampled = rng.triangular(0.5, MAX_LINE_WIDTH, 0.84) * width / unit
    low, high = (share * shorter / capital for share in CAPITALS)
    return int(min(max(sampled, low), high, MAX_LINE_WIDTH * width / unit))


def _sample_second_size(rng: random.Random, font: str, text: str, headline_size: int, height: int, width: int) -> int:
    shorter, unit = min(height, width), fonts.unit_width(font, text)
    low, high = (share * shorter for share in SECOND_SIZES)
    sampled = rng.uniform(0.45, 0.8) * width / unit
    return int(min(max(min(sampled, high, 0.62 * headline_size), low), MAX_LINE_WIDTH * width / unit))


def _baselines(font: str, position: str, sizes: list[int], height: int, width: int) -> list[int]:
    """Return the rows on which the lines stand, the block of all lines at the top, in the middle or at the bottom."""
    heights, shorter = fonts.proportions(font), min(height, width)
    rows = [heights.ascender * sizes[0]]
    for size, previous in zip(sizes[1:], sizes, strict=False):
        rows.append(rows[-1] + heights.descender * previous + GAP * shorter + heights.ascender * size)
    block = rows[-1] + heights.descender * sizes[-1]
    top = {"top": MARGIN * shorter, "middle": (height - block) / 2, "bottom": height - MARGIN * shorter - block}[
        position
    ]
    return [round(top + row) for row in rows]


def _sample_shape(scene: Scene, rng: random.Random) -> Shape:
    """Sample a shape in the free rows above or below the text; none where they are too few."""
    shorter = min(scene.height, scene.width)
    first, last = scene.text_rows
    above = (MARGIN * shorter, first - GAP * shorter)
    below = (last + GAP * shorter, scene.height - MARGIN * shorter)
    row, (top, bottom) = rng.choice(
        {"top": [("bottom", below)], "bottom": [("top", above)], "middle": [("top", above), ("bottom", below)]}[
            scene.position
        ]
    )
    radius = min((bottom - top) / 2, MAX_RADIUS * shorter)
    if radius < MIN_RADIUS * shorter:
        return Shape()
    kind, column = rng.choice(SHAPES), rng.choice(("left", "", "right"))
    colour = rng.choice(readable_on(scene.background, MIN_SHAPE_CONTRAST))
    y = (top + bottom) / 2
    if kind == "stripe":
        return Shape(kind, colour, row, scene.width / 2, y, radius / 3)
    edge = MARGIN * shorter + radius
    x = {"left": edge, "": scene.width / 2, "right": scene.width - edge}[column]
    return Shape(kind, colour, f"{row} {column}".strip(), x, y, radius)


def caption(scene: Scene, rng: random.Random, *, nouns: tuple[str, ...] = NOUNS, layout: str = "") -> str:
    """Sample one of several descriptions of the scene; double quotes hold exactly its texts, in reading order.

    Colours, shape, positions, and the edge of aligned lines are always named; family and size of the letters in three
    of four captions. The name of a `layout` stands for both positions.
    """
    family = f"{fonts.TYPEFACES[scene.font].family} " if rng.random() < 0.75 else ""
    size = f"{scene.size_word} " if rng.random() < 0.75 else ""
    style = f"{size}{scene.text_colour} {family}"
    if layout:
        scene = replace(scene, position="", shape=replace(scene.shape, position=""))
    where = {"": "", "top": " at the top", "middle": " in the middle", "bottom": " at the bottom"}[scene.position]
    background, title = scene.background, f'"{scene.texts[0]}"'
    a_background = _with_article(background)
    poster = rng.choice(nouns)
    template = rng.choice(
        (
            f"{a_background} {poster} with the headline {title} in {style}letters{where}",
            f"{a_background} {poster} with the text {title} in {style}letters{where}",
            f"A {poster} on a plain {background} background that says {title} in {style}letters{where}",
            f"{a_background} {poster} that reads {title}{where} in {style}type",
            f"A simple {poster} with {a_background.lower()} background and {title} written{where} in {style}letters",
            f"Flat {background} {poster}, {style}text {title}{where}",
            f"Design {a_background.lower()} {poster} with {title} in {style}letters{where}",
        )
    )
    second_line, shape = _second_phrase(scene, rng), _shape_phrase(scene, rng)
    layout_phrase = f"in the {layout} layout" if layout else ""
    return _sentence(template, second_line, shape, _frame_phrase(scene), _alignment_phrase(scene), layout_phrase)


def _second_phrase(scene: Scene, rng: random.Random) -> str:
    if len(scene.lines) == 1:
        return ""
    title = f'"{scene.texts[1]}"'
    return rng.choice(
        (f"{title} in smaller letters below", f"below it {title} in small letters", f"{title} as a second line")
    )


def _shape_phrase(scene: Scene, rng: random.Random) -> str:
    if scene.shape.kind == "none":
        return rng.choice(("", "", "no shapes"))
    return f"{rng.choice(('', '', 'decorated with '))}{describe_shape(scene.shape)}"


def _frame_phrase(scene: Scene) -> str:
    if not scene.frame.thickness:
        return ""
    thickness = "thin" if scene.frame.thickness < THIN_FRAME * min(scene.height, scene.width) else "thick"
    return f"framed by a {thickness} {scene.text_colour} border"


def _alignment_phrase(scene: Scene) -> str:
    return "" if scene.alignment == "centre" else f"all text aligned to the {scene.alignment} edge"


def describe_shape(shape: Shape) -> str:
    """Describe colour, kind and position of a shape as captions do: `a red star in the top left corner`."""
    words = f"{_with_article(shape.colour).lower()} {shape.kind}"
    if not shape.position:
        return words
    return f"{words} in the {shape.position} corner" if " " in shape.position else f"{words} at the {shape.position}"


def _sentence(*phrases: str) -> str:
    return ", ".join(filter(None, phrases)) + "."


def _with_article(word: str) -> str:
    return f"{'An' if word[0] in 'aeiou' else 'A'} {word}"
