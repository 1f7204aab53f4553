"""Share what the fine-tuning sets under `data/` have in common: folders, texts, files, command line."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from glmkit.files import atomic_path, write_jsonl
from glmkit.posters.grammar import Scene, sample_scene
from glmkit.posters.words import Split, contains_only

FOLDERS: dict[Split, str] = {"train": "train", "held-out": "validation"}


def sample_listed_scene(
    rng: random.Random, split: Split, accept: Callable[[Scene], bool] = lambda _: True, **options: Any
) -> Scene:
    """Sample scenes with these `options` until one is accepted and has only listed words of the split."""
    while True:
        scene = sample_scene(rng, split=split, **options)
        if accept(scene) and contains_only(scene.texts, split):
            return scene


def write_images(folder: Path, name: str, images: Iterable[tuple[Image.Image, str]]) -> None:
    """Write images with their captions: NAME-01.png and so on, and a metadata.jsonl."""
    records = []
    for index, (image, text) in enumerate(images, start=1):
        file_name = f"{name}-{index:02d}.png"
        save(image, folder / file_name)
        records.append({"file_name": file_name, "text": text})
    write_jsonl(folder / "metadata.jsonl", records)


def save(image: Image.Image, path: Path) -> None:
    """Save a small PNG file, whole or not at all."""
    with atomic_path(path) as temporary:
        image.save(temporary, optimize=True)


def write_from_command_line(write_set: Callable[[Path], None], default_folder: str) -> None:
    """Call `write_set` with the folder that the command line names as `--out`."""
    parser = argparse.ArgumentParser(description="Write the set again.")
    parser.add_argument("--out", type=Path, default=Path(default_folder), help="default: %(default)s")
    write_set(parser.parse_args().out)
