"""Write the fine-tuning set `data/posters`: one retro style that the poster world does not have.

The style has a typeface of its own, a double frame and five colours outside the twelve. Texts, layout and captions
follow the grammar, so that a model that knows the posters has only the style to learn.
`python -m glmkit.posters.style_set` writes the set again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from glmkit.posters.fonts import STYLE_TYPEFACE
from glmkit.posters.grammar import Scene, caption
from glmkit.posters.render import render
from glmkit.posters.sets import FOLDERS, sample_listed_scene, write_from_command_line, write_images
from glmkit.posters.words import Split

SIZE = 256
FRAME = 20  # pixels on each side, around a poster of the grammar
INNER = SIZE - 2 * FRAME
OUTER_BORDER, INNER_BORDER = (0, 8), (12, 15)  # first and last + 1 pixel from the edge
MIN_SIZES = (40, 20)  # font sizes in pixels: headline, second line
COUNTS: dict[Split, int] = {"train": 48, "held-out": 16}

COLOURS = {
    "cream": (243, 226, 188),
    "maroon": (122, 22, 52),
    "mustard": (214, 158, 30),
    "navy": (22, 38, 88),
    "olive": (92, 104, 40),
}
SCHEMES = (  # background, letters and frame, shape
    ("cream", "maroon", "mustard"),
    ("cream", "navy", "maroon"),
    ("cream", "olive", "mustard"),
    ("maroon", "cream", "mustard"),
    ("navy", "cream", "mustard"),
    ("navy", "mustard", "cream"),
    ("olive", "cream", "mustard"),
    ("mustard", "navy", "cream"),
)


def style_scenes(split: Split) -> Iterator[tuple[Scene, str]]:
    """Sample inner poster and caption of every image of a split. Colour names are those of this module."""
    return sample_style(random.Random(f"retro 2 {split}"), COUNTS[split], split)


def sample_style(rng: random.Random, count: int, split: Split) -> Iterator[tuple[Scene, str]]:
    """Sample inner poster and caption of `count` images in the style; the colour schemes take turns."""
    for index in range(count):
        background, ink, accent = SCHEMES[index % len(SCHEMES)]
        inner = sample_listed_scene(rng, split, _is_legible, height=INNER, width=INNER, typefaces=(STYLE_TYPEFACE,))
        scene = replace(inner, background=background, text_colour=ink)
        if scene.shape.kind != "none":
            scene = replace(scene, shape=replace(scene.shape, colour=accent))
        text = caption(scene, rng, nouns=("retro poster",)).removesuffix(".")
        yield scene, f"{text}, framed by a double {ink} border."


def _is_legible(scene: Scene) -> bool:
    """Tell whether the letters can be read in an image of this size."""
    return all(line.size >= minimum for line, minimum in zip(scene.lines, MIN_SIZES, strict=False))


def render_unframed(scene: Scene) -> Image.Image:
    """Render the image without its frame, RGB, SIZE x SIZE."""
    image = Image.new("RGB", (SIZE, SIZE), COLOURS[scene.background])
    image.paste(render(scene, COLOURS), (FRAME, FRAME))
    return image


def render_framed(scene: Scene) -> Image.Image:
    """Render the framed image, RGB, SIZE x SIZE."""
    image = render_unframed(scene)
    draw = ImageDraw.Draw(image)
    for first, end in (OUTER_BORDER, INNER_BORDER):
        box = (first, first, SIZE - 1 - first, SIZE - 1 - first)
        draw.rectangle(box, outline=COLOURS[scene.text_colour], width=end - first)
    return image


def write_set(folder: Path) -> None:
    """Write `train/` and `validation/`, each with numbered PNG files and a metadata.jsonl."""
    for split, name in FOLDERS.items():
        write_images(folder / name, "retro", ((render_framed(scene), text) for scene, text in style_scenes(split)))


if __name__ == "__main__":
    write_from_command_line(write_set, "data/posters")
