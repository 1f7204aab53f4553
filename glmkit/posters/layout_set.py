"""The fine-tuning set `data/layouts`: posters whose lines all stand at the left or right edge, not in the middle.

Words, typefaces, colours and shapes are those of the grammar, so that where a text stands is all there is to learn: the
autoregressive model's part. `python -m glmkit.posters.layout_set` draws the set again.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from glmkit.posters import fonts
from glmkit.posters.grammar import SIDES, Scene, caption, draw_scene
from glmkit.posters.render import render
from glmkit.posters.style_set import COUNTS, FOLDERS, write_pictures
from glmkit.posters.words import Split, all_listed

MAX_LINE_WIDTH = 0.6  # of the width, so that the other side stays free


def layout_scenes(split: Split) -> Iterator[tuple[Scene, str]]:
    """The poster and the caption of every picture of a split, 256x256 pixels."""
    return draw_layouts(random.Random(f"layouts 1 {split}"), COUNTS[split], split)


def draw_layouts(rng: random.Random, count: int, split: Split) -> Iterator[tuple[Scene, str]]:
    """The poster and the caption of `count` pictures; the sides take turns."""
    for index in range(count):
        scene = replace(_narrow(rng, split), side=SIDES[index % len(SIDES)])
        yield scene, caption(scene, rng)


def _narrow(rng: random.Random, split: Split) -> Scene:
    """A scene whose texts are listed words of the split, and leave room beside them."""
    while True:
        scene = draw_scene(rng, split=split)
        widest = max(line.size * fonts.unit_width(scene.font, line.text) for line in scene.lines)
        if widest <= MAX_LINE_WIDTH * scene.width and all_listed(scene.texts, split):
            return scene


def write_set(folder: Path) -> None:
    """Write `train/` and `held_out/`, each with numbered PNG files and a metadata.jsonl."""
    for split, name in FOLDERS.items():
        write_pictures(folder / name, "layout", ((render(scene), text) for scene, text in layout_scenes(split)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the fine-tuning set again.")
    parser.add_argument("--out", type=Path, default=Path("data/layouts"))
    write_set(parser.parse_args().out)
