"""Images that were made elsewhere: copied into the run folder, one `Generation` each in images.jsonl."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glmkit.errors import UserError
from glmkit.evaluation.suites.shared.layouts import GridTile, ImageFiles
from glmkit.files import atomic_path, read_regular, write_jsonl
from glmkit.inputs.images import MAX_BYTES, read_image
from glmkit.records import Generation, Prompt


def copy_images(
    folder: Path, files: ImageFiles, prompts: Sequence[Prompt], count: int | None, seeds: Sequence[int] = ()
) -> list[Generation]:
    """Copy images into the run folder, in prompt order; a prompt without its image is a record with an error.

    Each prompt should have `seeds`, or `count` from its own on; without both as many as the prompt with the most, so
    that what is missing counts as much as what is there. Which numbers its seeds have is every prompt's own matter.
    """
    present: dict[str, list[int]] = {prompt.id: [] for prompt in prompts}
    for name, seed in sorted(files):
        present[name].append(seed)
    most = max(map(len, present.values()))
    images = [
        _copy(
            folder,
            files.get((prompt.id, seed)),
            Generation(f"{prompt.id}_{seed}", prompt.id, prompt.prompt, seed, error=prompt.error),
        )
        for prompt in prompts
        for seed in seeds
        or (_fill(present[prompt.id], most) if count is None else range(prompt.seed, prompt.seed + count))
    ]
    write_jsonl(folder / "images.jsonl", (image.to_dict() for image in images))
    return images


def _fill(seeds: Sequence[int], count: int) -> list[int]:
    """Add the lowest seeds that are absent, until there are `count`."""
    absent = (seed for seed in itertools.count() if seed not in seeds)
    return sorted([*seeds, *itertools.islice(absent, count - len(seeds))])


def _copy(folder: Path, source: Path | GridTile | None, record: Generation) -> Generation:
    """Copy one image unless the run folder holds the same; returns the record with its file or its error.

    That of a prompt which cannot be used has one already.
    """
    if record.error is not None:
        return replace(record, error=f"prompt: {record.error}")
    if source is None:
        return replace(record, error="not in the folder")
    if isinstance(source, GridTile):
        return _cut(folder, source, record)
    try:
        content = read_regular(source, f"image {source}", MAX_BYTES)
    except UserError as error:
        return replace(record, error=error.what if error.found is None else f"{error.what}: {error.found}")
    return _save(folder, content, record, source.suffix.lower())


def _cut(folder: Path, tile: GridTile, record: Generation) -> Generation:
    """Cut one image of a grid and save it: as PNG, or as OneIG-Bench does, as JPEG with Pillow's quality.

    Black tiles stand for images that could not be made.
    """
    try:
        grid = read_image(tile.path)
    except UserError as error:
        return replace(record, error=error.what)
    width, height = grid.width // tile.columns, grid.height // tile.rows
    left, top = tile.column * width, tile.row * height
    image = grid.crop((left, top, left + width, top + height))
    if image.getbbox() is None:
        return replace(record, error="no image: this tile of the grid is black")
    encoded = io.BytesIO()
    image.save(encoded, format="JPEG" if tile.jpeg else "PNG")
    return _save(folder, encoded.getvalue(), record, ".jpg" if tile.jpeg else ".png")


def _save(folder: Path, content: bytes, record: Generation, suffix: str) -> Generation:
    """Write an image unless the run folder holds the same; returns the record with its file."""
    file = f"images/{record.id}{suffix}"
    target = folder / file
    if not target.is_file() or target.stat().st_size != len(content) or target.read_bytes() != content:
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
    return replace(record, file=file)
