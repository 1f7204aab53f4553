"""What the fine-tuning sets under `data/` share: their folders, their texts, how they are written and drawn again."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from glmkit.files import atomic_path, write_jsonl
from glmkit.posters.grammar import Scene, draw_scene
from glmkit.posters.words import Split, all_listed

FOLDERS: dict[Split, str] = {"train": "train", "held-out": "validation"}


def listed_scene(
    rng: random.Random, split: Split, fits: Callable[[Scene], bool] = lambda scene: True, **options: Any
) -> Scene:
    """The first scene of `draw_scene` with these `options` that fits and whose texts are listed words of the split."""
    while True:
        scene = draw_scene(rng, split=split, **options)
        if fits(scene) and all_listed(scene.texts, split):
            return scene


def write_images(folder: Path, name: str, images: Iterable[tuple[Image.Image, str]]) -> None:
    """Write images with their captions: NAME-01.png and so on, and a metadata.jsonl."""
    rows = []
    for index, (image, text) in enumerate(images, start=1):
        file_name = f"{name}-{index:02d}.png"
        save(image, folder / file_name)
        rows.append({"file_name": file_name, "text": text})
    write_jsonl(folder / "metadata.jsonl", rows)


def save(image: Image.Image, path: Path) -> None:
    """As a small PNG file, whole or not at all."""
    with atomic_path(path) as temporary:
        image.save(temporary, optimize=True)


def draw_again(write_set: Callable[[Path], None], usual: str) -> None:
    """The command line of a set: `write_set` into the folder `--out`."""
    parser = argparse.ArgumentParser(description="Draw the set again.")
    parser.add_argument("--out", type=Path, default=Path(usual), help="default: %(default)s")
    write_set(parser.parse_args().out)
