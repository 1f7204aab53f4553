"""The fine-tuning set `data/posters`: one retro style that the poster world does not have.

Its own typeface, a double frame and five colours outside the twelve; texts, layout and captions follow the grammar, so
that a model that knows the posters has the style to learn and nothing else. `python -m glmkit.posters.style_set` draws
the set again.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from glmkit.files import atomic_path, write_jsonl
from glmkit.posters.fonts import STYLE_TYPEFACE
from glmkit.posters.grammar import Scene, caption, draw_scene
from glmkit.posters.render import render
from glmkit.posters.words import Split, all_listed

SIZE = 256
FRAME = 20  # pixels on each side, around a poster of the grammar
BAND, LINE = (0, 8), (12, 15)  # the two borders: first and last + 1 pixel from the edge
LEAST_SIZES = (40, 20)  # font sizes in pixels: headline, second line
COUNTS: dict[Split, int] = {"train": 48, "held-out": 16}
FOLDERS: dict[Split, str] = {"train": "train", "held-out": "held_out"}

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
    """The inner poster and the caption of every picture of a split. Colour names are those of this module."""
    return draw_style(random.Random(f"retro 2 {split}"), COUNTS[split], split)


def draw_style(rng: random.Random, count: int, split: Split) -> Iterator[tuple[Scene, str]]:
    """The inner poster and the caption of `count` pictures in the style; the colour schemes take turns."""
    for index in range(count):
        background, ink, accent = SCHEMES[index % len(SCHEMES)]
        scene = replace(_words_only(rng, split), background=background, text_colour=ink)
        if scene.shape.kind != "none":
            scene = replace(scene, shape=replace(scene.shape, colour=accent))
        text = caption(scene, rng, nouns=("retro poster",)).removesuffix(".")
        yield scene, f"{text}, framed by a double {ink} border."


def _words_only(rng: random.Random, split: Split) -> Scene:
    """A scene whose texts are listed words of the split in letters that are large enough."""
    while True:
        inner = SIZE - 2 * FRAME
        scene = draw_scene(rng, height=inner, width=inner, split=split, typefaces=(STYLE_TYPEFACE,))
        large = all(line.size >= least for line, least in zip(scene.lines, LEAST_SIZES, strict=False))
        if large and all_listed(scene.texts, split):
            return scene


def unframed_poster(scene: Scene) -> Image.Image:
    """The picture without its frame, RGB, SIZE x SIZE."""
    picture = Image.new("RGB", (SIZE, SIZE), COLOURS[scene.background])
    picture.paste(render(scene, COLOURS), (FRAME, FRAME))
    return picture


def style_poster(scene: Scene) -> Image.Image:
    """The framed picture, RGB, SIZE x SIZE."""
    picture = unframed_poster(scene)
    draw = ImageDraw.Draw(picture)
    for first, end in (BAND, LINE):
        box = (first, first, SIZE - 1 - first, SIZE - 1 - first)
        draw.rectangle(box, outline=COLOURS[scene.text_colour], width=end - first)
    return picture


def write_set(folder: Path) -> None:
    """Write `train/` and `held_out/`, each with numbered PNG files and a metadata.jsonl."""
    for split, name in FOLDERS.items():
        write_pictures(folder / name, "retro", ((style_poster(scene), text) for scene, text in style_scenes(split)))


def write_pictures(folder: Path, name: str, pictures: Iterable[tuple[Image.Image, str]]) -> None:
    """Write pictures with their captions: NAME-01.png and so on, and a metadata.jsonl."""
    rows = []
    for index, (picture, text) in enumerate(pictures, start=1):
        file_name = f"{name}-{index:02d}.png"
        with atomic_path(folder / file_name) as temporary:
            picture.save(temporary, optimize=True)
        rows.append({"file_name": file_name, "text": text})
    write_jsonl(folder / "metadata.jsonl", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the fine-tuning set again.")
    parser.add_argument("--out", type=Path, default=Path("data/posters"))
    write_set(parser.parse_args().out)
