"""Which image file belongs to which prompt: our own file names, and those of public benchmarks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glmkit.errors import UserError
from glmkit.inputs.images import IMAGE_SUFFIXES
from glmkit.records import Prompt


@dataclass(frozen=True)
class GridTile:
    """Point at one image of a grid of equal images in one file; row and column count from 0 at the top left."""

    path: Path
    row: int
    column: int
    rows: int = 2
    columns: int = 2


ImageFiles = Mapping[tuple[str, int], Path | GridTile]  # (prompt id, seed) -> image


def by_name(images: Path, prompts: Sequence[Prompt]) -> ImageFiles:
    """Find `<prompt id>_<seed>.png`; a name without a seed is seed 0. UserError when a seed has two images."""
    ids = {prompt.id for prompt in prompts}
    files: dict[tuple[str, int], Path | GridTile] = {}
    for path in sorted(images.iterdir()):
        match = re.fullmatch(r"(.+)_(\d+)", path.stem)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in ids:
            add(files, (path.stem, 0), path)
        elif match and match[1] in ids:
            add(files, (match[1], int(match[2])), path)
    return files


def add(files: dict[tuple[str, int], Path | GridTile], key: tuple[str, int], path: Path) -> None:
    """Add the image of a prompt and seed; UserError when there is one already."""
    if key in files:
        names = f"{file_of(files[key]).name} and {path.name}"
        raise UserError(f"{path.parent} holds two images of {key[0]!r} with seed {key[1]}", found=names, fix="keep one")
    files[key] = path


def file_of(image: Path | GridTile) -> Path:
    """Give the file that holds an image."""
    return image.path if isinstance(image, GridTile) else image


def no_image(images: Path, names: str) -> UserError:
    """Make the error for a folder without an image of the suite; `names` shows how they should be called."""
    first = next((path.name for path in sorted(images.iterdir())), "an empty folder")
    return UserError(
        f"no image in {images} is named after a prompt of the suite", found=first, fix=f"names like {names}"
    )
