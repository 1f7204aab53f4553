"""Sample scenes: what an image of this world shows, to the pixel.

Lengths are shares of the shorter side unless they are called pixels. Texts touch neither each other nor a shape, so
each stands on the background colour alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from glmkit.posters.everyday import colours, fonts, texts
from glmkit.posters.grammar import SHAPES, THIN_FRAME
from glmkit.posters.words import Split

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

PLACES = tuple((row, column) for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))
MIDDLE = ("middle", "centre")
MARGIN, GAP = 0.065, 0.04
WIDEST = 0.9  # of the width, for a line of text
SMALLEST = {"en": 15 / 256, "zh": 20 / 256}  # font sizes
SMALLEST_PIXELS = {"en": 14, "zh": 20}  # no smaller ones at any image size: they cannot be read
LARGEST = {"en": 92 / 256, "zh": 84 / 256}
LEADING = 1.18  # distance of two baselines, in font sizes
MOST_LINES = 4
RADII = (0.05, 0.17)
MOST_SHAPES = 4
ANCHORS = {"l": 0.0, "m": 0.5, "r": 1.0}  # which share of a line stands before its anchor


@dataclass(frozen=True)
class TextBlock:
    """One quoted text, broken into lines. `x` is the column of its anchor: l, m or r; `baseline` of the first line."""

    text: str
    lines: tuple[str, ...]
    font: str
    size: int
    place: tuple[str, str]
    x: int
    anchor: str
    baseline: int
    accent: bool = False

    @property
    def leading(self) -> int:
        """Return the pixels from one baseline to the next."""
        return round(LEADING * self.size)

    @property
    def box(self) -> Box:
        """Return what the letters can touch."""
        up, down = fonts.heights(self.font)
        width = max(fonts.unit_width(self.font, line) for line in self.lines) * self.size
        left = self.x - ANCHORS[self.anchor] * width
        last = self.baseline + self.leading * (len(self.lines) - 1)
        return left, self.baseline - up * self.size, left + width, last + down * self.size


@dataclass(frozen=True)
class PlacedShape:
    """One flat shape; its centre and radius in pixels."""

    kind: str
    colour: str
    place: tuple[str, str]
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Border:
    """A border: pixels from the edge to its outer side, its thickness in pixels, 0 for none, and its colour."""

    gap: int = 0
    thickness: int = 0
    colour: str = ""


@dataclass(frozen=True)
class EverydayScene:
    """Hold what one image shows. Blocks are in the order in which a caption names their texts.

    `arrangement` is "stack" when the blocks stand one under the other as one group, else "spread". Blocks with `accent`
    have the accent colour, the others the text colour.
    """

    height: int
    width: int
    language: str
    background: str
    text_colour: str
    accent_colour: str
    arrangement: str
    blocks: tuple[TextBlock, ...]
    shapes: tuple[PlacedShape, ...] = ()
    frame: Border = Border()

    @property
    def shape_groups(self) -> dict[tuple[str, str, tuple[str, str]], list[PlacedShape]]:
        """Return equal shapes at one place together, by kind, colour and place."""
        groups: dict[tuple[str, str, tuple[str, str]], list[PlacedShape]] = {}
        for shape in self.shapes:
            groups.setdefault((shape.kind, shape.colour, shape.place), []).append(shape)
        return groups

    @property
    def frame_is_thin(self) -> bool:
        """Tell whether captions call the frame thin; any other is thick."""
        return self.frame.thickness < THIN_FRAME * min(self.height, self.width)

    @property
    def is_faint(self) -> bool:
        """Tell whether a text has a colour that only who asks for it expects: captions must name it."""
        faint = {*colours.COLOURS} - {*colours.readable_on(self.background)}
        return self.text_colour in faint or self.accent_colour in faint

    def capital_share(self, block: TextBlock) -> float:
        """Return the height of a text's capitals as a share of the shorter side."""
        return block.size * fonts.capital(block.font) / min(self.height, self.width)

    def sample_is_placed(self, number: int, rng: random.Random) -> bool:
        """Sample whether a caption says the place of text `number`.

        Seldom for the middle, nearly always elsewhere; of a stack only once.
        """
        if self.arrangement == "spread":
            return rng.random() <= 0.93
        return number == 0 and rng.random() <= (0.15 if self.blocks[0].place == MIDDLE else 0.85)

    @property
    def has_accent(self) -> bool:
        """Tell whether one of the texts has a colour of its own."""
        return any(block.accent for block in self.blocks)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the texts in the order of the caption."""
        return tuple(block.text for block in self.blocks)


def sample_scene(
    rng: random.Random, *, height: int = 256, width: int = 256, split: Split = "train", language: str = ""
) -> EverydayScene:
    """Sample a scene. The same `rng` state and arguments give the same scene; `language` is "en", "zh" or sampled."""
    language = language or rng.choices(("en", "zh"), (0.62, 0.38))[0]
    background = colours.sample(rng)
    least = colours.MIN_ASKED_CONTRAST if rng.random() < 0.3 else colours.MIN_TEXT_CONTRAST
    ink = colours.sample_on(background, rng, least)
    blocks: tuple[TextBlock, ...] = ()
    while not blocks:
        count = rng.choices((1, 2, 3, 4), (54, 29, 12, 5))[0]
        arrangement = "stack" if count in (1, 4) or rng.random() < 0.55 else "spread"
        blocks = _blocks(rng, count, arrangement, language, split, height, width)
    accent = ink
    if len(blocks) > 1 and rng.random() < 0.3:
        accent = colours.sample_on(background, rng, least)
        which = rng.randrange(len(blocks))
        blocks = tuple(replace(block, accent=number == which) for number, block in enumerate(blocks))
    framed = rng.random() <= 0.14
    frame = sample_border(rng, background, ink, min(height, width)) if framed else Border()
    shapes = _shapes(rng, background, blocks, height, width)
    return EverydayScene(height, width, language, background, ink, accent, arrangement, blocks, shapes, frame)


def _blocks(
    rng: random.Random, count: int, arrangement: str, language: str, split: Split, height: int, width: int
) -> tuple[TextBlock, ...]:
    """Sample texts and set them; nothing when they do not fit."""
    longest = {1: 40, 2: 30, 3: 24, 4: 18}[count]
    quoted = [texts.sample(rng, language, split, longest if n == 0 else min(longest, 26)) for n in range(count)]
    if len(set(quoted)) < count or sum("'" in text for text in quoted) > 1:
        return ()
    face = rng.choice(fonts.ENGLISH if language == "en" else fonts.CHINESE)
    if arrangement == "stack":
        return _stack(rng, quoted, face, language, height, width)
    return _spread(rng, quoted, face, language, height, width)


def _stack(
    rng: random.Random, quoted: list[str], face: str, language: str, height: int, width: int
) -> tuple[TextBlock, ...]:
    """Set the texts one under the other, in the middle, at an edge or in a corner."""
    row = rng.choices(("middle", "top", "bottom"), (60, 22, 18))[0]
    column = rng.choices(("centre", "left", "right"), (78, 13, 9))[0]
    room = height * (0.84 if row == "middle" else 0.6) / len(quoted)
    widest = width * (WIDEST if column == "centre" else 0.7)
    sizes = []
    for number, text in enumerate(quoted):
        largest = LARGEST[language] * (1.0 if number == 0 or rng.random() < 0.3 else 0.62)
        sizes.append(fit(rng, text, face, language, largest * min(height, width), widest, room, min(height, width)))
    return stand(rng, quoted, sizes, face, (row, column), height, width)


def fit(
    rng: random.Random, text: str, face: str, language: str, largest: float, widest: float, room: float, shorter: int
) -> tuple[int, tuple[str, ...]]:
    """Sample a size, and break the text where it must be; size 0 when it cannot fit. `largest` and the rest: pixels.

    Most texts are about as large as they can be, as who asks for no size expects it.
    """
    smallest = max(SMALLEST[language] * shorter, SMALLEST_PIXELS[language])
    largest = max(largest, smallest + 1)
    if rng.random() < 0.6:
        wanted = int(rng.uniform(0.85, 1.0) * largest)
    else:
        wanted = int(rng.triangular(smallest, largest, 0.6 * smallest + 0.4 * largest))
    best: tuple[int, tuple[str, ...]] = (0, ())
    for count in range(1, MOST_LINES + 1):
        lines = broken(text, count, face, language)
        if lines is None:
            break
        unit = max(fonts.unit_width(face, line) for line in lines)
        size = int(min(wanted, widest / unit, room / (LEADING * (count - 1) + sum(fonts.heights(face)))))
        if size >= 0.9 * wanted or (count == 1 and size >= 1.6 * smallest and size >= 0.55 * wanted):
            return size, lines
        if size > best[0] * 1.15:
            best = size, lines
    return best if best[0] >= smallest else (0, ())


def broken(text: str, count: int, face: str, language: str) -> tuple[str, ...] | None:
    """Break a text into `count` lines as even as can be; None when it has no place to break."""
    pieces, joint = (list(text), "") if language == "zh" else (text.split(" "), " ")
    if len(pieces) < count or (language == "zh" and count > 1 and len(pieces) < 2 * count):
        return None
    lines: list[str] = []
    for left in range(count, 0, -1):
        if left == 1:
            lines.append(joint.join(pieces))
            break
        goal = fonts.unit_width(face, joint.join(pieces)) / left
        used = 1
        while len(pieces) - used > left - 1 and fonts.unit_width(face, joint.join(pieces[: used + 1])) <= goal * 1.12:
            used += 1
        lines.append(joint.join(pieces[:used]))
        pieces = pieces[used:]
    return tuple(lines)


def stand(
    rng: random.Random,
    quoted: list[str],
    sizes: list[tuple[int, tuple[str, ...]]],
    face: str,
    place: tuple[str, str],
    height: int,
    width: int,
) -> tuple[TextBlock, ...]:
    """Let the blocks stand as one group at `place`; nothing when they are too high or one has no size."""
    if not all(size for size, _ in sizes):
        return ()
    shorter = min(height, width)
    up, down = fonts.heights(face)
    margin = MARGIN * shorter + rng.uniform(0, 0.04) * shorter
    gap = GAP * shorter * rng.uniform(1.0, 2.2)
    rows, y = [], 0.0
    for size, lines in sizes:
        rows.append(y + up * size)
        y = rows[-1] + round(LEADING * size) * (len(lines) - 1) + down * size + gap
    total = y - gap
    if total > height - 2 * margin:
        return ()
    top = {"top": margin, "middle": (height - total) / 2, "bottom": height - margin - total}[place[0]]
    x, anchor = {"left": (margin, "l"), "centre": (width / 2, "m"), "right": (width - margin, "r")}[place[1]]
    return tuple(
        TextBlock(text, lines, face, size, place, round(x), anchor, round(top + row))
        for text, (size, lines), row in zip(quoted, sizes, rows, strict=True)
    )


def _spread(
    rng: random.Random, quoted: list[str], face: str, language: str, height: int, width: int
) -> tuple[TextBlock, ...]:
    """Set each text at a place of its own: another row, or another corner of the same row for short ones."""
    rows = list(rng.choice((("top", "middle", "bottom"), ("top", "bottom", "middle"))))[: len(quoted)]
    if len(quoted) == 2 and rng.random() < 0.3:
        rows = rng.sample(("top", "middle", "bottom"), 2)
    rng.shuffle(rows)
    shorter = min(height, width)
    blocks: list[TextBlock] = []
    for text, row in zip(quoted, rows, strict=True):
        column = rng.choices(("centre", "left", "right"), (70, 16, 14))[0]
        largest = LARGEST[language] * (1.0 if row == "middle" else 0.75) * shorter
        fitted = fit(rng, text, face, language, largest, width * WIDEST, 0.27 * height, shorter)
        blocks += stand(rng, [text], [fitted], face, (row, column), height, width)
    return tuple(blocks) if len(blocks) == len(quoted) and not _overlap([block.box for block in blocks]) else ()


def _overlap(boxes: list[Box], gap: float = 2.0) -> bool:
    return any(touch(first, second, gap) for n, first in enumerate(boxes) for second in boxes[:n])


def touch(first: Box, second: Box, gap: float) -> bool:
    """Tell whether two boxes are nearer to each other than `gap` pixels."""
    return (
        first[0] - gap < second[2]
        and second[0] - gap < first[2]
        and first[1] - gap < second[3]
        and second[1] - gap < first[3]
    )


def sample_border(rng: random.Random, background: str, ink: str, shorter: int) -> Border:
    """Sample a frame; texts and shapes keep clear of it."""
    colour = ink if rng.random() < 0.55 else colours.sample_on(background, rng, colours.MIN_SHAPE_CONTRAST)
    thickness = rng.uniform(0.008, 0.03)
    return Border(round(rng.uniform(0, 0.05 - thickness) * shorter), max(1, round(thickness * shorter)), colour)


def _shapes(
    rng: random.Random, background: str, blocks: tuple[TextBlock, ...], height: int, width: int
) -> tuple[PlacedShape, ...]:
    """Sample up to four shapes: one, or several equal ones in a row, or two of different kinds."""
    if rng.random() < 0.45:
        return ()
    shorter, taken = min(height, width), [block.box for block in blocks]
    shapes: list[PlacedShape] = []
    for _ in range(2 if rng.random() < 0.2 else 1):
        kind = rng.choice(SHAPES)
        colour = rng.choice(colours.readable_on(background, colours.MIN_SHAPE_CONTRAST))
        count = 1 if kind == "stripe" else rng.choices((1, 2, 3, 4), (70, 10, 14, 6))[0]
        if len(shapes) + count > MOST_SHAPES:
            continue
        for _ in range(8):
            placed = _row(rng, kind, colour, count, height, width, shorter)
            boxes = [shape_box(shape, width) for shape in placed]
            if not any(touch(box, other, GAP * shorter) for box in boxes for other in taken):
                shapes += placed
                taken += boxes
                break
    return tuple(shapes)


def _row(
    rng: random.Random, kind: str, colour: str, count: int, height: int, width: int, shorter: int
) -> list[PlacedShape]:
    """Sample where `count` shapes of one kind stand."""
    place = rng.choice(PLACES)
    radius = rng.uniform(RADII[0], RADII[1] if count == 1 else 0.1) * shorter
    return stand_in_row(kind, colour, count, place, radius / 3 if kind == "stripe" else radius, height, width)


def stand_in_row(
    kind: str, colour: str, count: int, place: tuple[str, str], radius: float, height: int, width: int
) -> list[PlacedShape]:
    """Let `count` equal shapes stand side by side around one place; a stripe crosses the whole width."""
    (row, column), shorter = place, min(height, width)
    edge = MARGIN * shorter
    y = {"top": edge + radius, "middle": height / 2, "bottom": height - edge - radius}[row]
    if kind == "stripe":
        return [PlacedShape(kind, colour, (row, "centre"), width / 2, y, radius)]
    step = radius * 2 + 0.03 * shorter
    span = step * (count - 1)
    first = {"left": edge + radius, "centre": (width - span) / 2, "right": width - edge - radius - span}[column]
    return [PlacedShape(kind, colour, place, first + step * n, y, radius) for n in range(count)]


def shape_box(shape: PlacedShape, width: int) -> Box:
    """Return what a shape can touch."""
    if shape.kind == "stripe":
        return 0, shape.y - shape.radius, width, shape.y + shape.radius
    return shape.x - shape.radius, shape.y - shape.radius, shape.x + shape.radius, shape.y + shape.radius
