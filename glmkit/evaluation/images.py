"""The images of a run: drawn by a model, or copied from a folder. One `Generation` row each in images.jsonl."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from glmkit.config import parse_size
from glmkit.errors import UserError
from glmkit.evaluation.baseline_images import draw_missing
from glmkit.evaluation.baselines import Baseline
from glmkit.evaluation.suites.shared.base import Suite
from glmkit.evaluation.suites.shared.layouts import GridTile, ImageFiles
from glmkit.files import append_jsonl, atomic_path, read_jsonl, write_jsonl
from glmkit.generation.images import save_image
from glmkit.generation.options import InferenceOptions
from glmkit.hashing import file_sha256
from glmkit.inputs.images import read_image
from glmkit.records import Generation, Prompt, Request

WORK = ".work"
PARTS = ("autoregressive", "glyph", "decoder", "vae")


@dataclass(frozen=True)
class Drawing:
    """With what a model of ours or a baseline (`baselines.find`) draws. `dtype` is float32 or bfloat16.

    `height` and `width` are pixels; with `own_sizes` a prompt that names its size is drawn at that. `steps` and
    `guidance` are None, and `dtype` is empty, where a baseline has no such thing.
    """

    model: str
    adapters: tuple[str, ...]
    seeds: int
    height: int
    width: int
    steps: int | None
    guidance: float | None
    dtype: str
    own_sizes: bool = True

    def size(self, prompt: Prompt) -> tuple[int, int]:
        """(height, width) of the images of a prompt."""
        return parse_size(prompt.size) if self.own_sizes and prompt.size else (self.height, self.width)

    def request(self, prompt: Prompt, seed: int, condition_images: tuple[str, ...] = ()) -> Request:
        height, width = self.size(prompt)
        decoding: dict[str, Any] = {"steps": self.steps, "guidance": self.guidance}
        return Request(
            id=f"{prompt.id}_{seed}",
            prompt=prompt.prompt,
            seed=seed,
            height=height,
            width=width,
            condition_images=condition_images,
            **{key: value for key, value in decoding.items() if value is not None},
        )


def write_references(folder: Path, suite: Suite, prompts: Sequence[Prompt]) -> dict[str, tuple[str, ...]]:
    """Write `references/<prompt id>/<name>.png` for what the suite gives; returns the condition images of prompts that edit."""
    condition_images: dict[str, tuple[str, ...]] = {}
    for prompt in prompts:
        for name, image in suite.references(prompt).items():
            path = folder / "references" / prompt.id / f"{name}.png"
            with atomic_path(path) as temporary:
                image.save(temporary, format="PNG")
            if name == "source":
                condition_images[prompt.id] = (str(path),)
    return condition_images


def draw(
    folder: Path,
    prompts: Sequence[Prompt],
    drawing: Drawing,
    device: str,
    condition_images: Mapping[str, tuple[str, ...]],
    options: InferenceOptions | None = None,
    baseline: Baseline | None = None,
) -> list[Generation]:
    """Draw what the run folder lacks, and what failed before; returns one row a prompt and seed, in prompt order.

    `condition_images` are the images to edit, by prompt id.

    The codes of all come first and wait in `.work` (see `glmkit.generation.batch`); several processes that a launcher
    started on the same folder share the images. `baseline` draws instead of a model of ours.
    """
    journal = folder / "images.jsonl"
    wanted = {f"{prompt.id}_{seed}": (prompt, seed) for prompt in prompts for seed in range(drawing.seeds)}
    requests = [drawing.request(prompt, seed, condition_images.get(prompt.id, ())) for prompt, seed in wanted.values()]
    rows = {row.id: row for row in _finished(journal)}
    if any(_missing(folder, request) for request in requests):
        drawn = _drawn if baseline is None else partial(_drawn_by, baseline)
        for row in drawn(folder, requests, wanted, drawing, device, options):
            append_jsonl(journal, row.to_dict())
            rows[row.id] = row
    rows = {row.id: row for row in _finished(journal)} | {name: row for name, row in rows.items() if row.error}
    # A process that was killed right after it saved an image has left no row.
    ordered = [rows.get(name) or _row(name, *wanted[name], None) for name in wanted]
    write_jsonl(journal, (row.to_dict() for row in ordered))
    if all(row.error is None for row in ordered):
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return ordered


def _missing(folder: Path, request: Request) -> bool:
    return not (folder / _file(request.id)).exists()


def _file(name: str) -> str:
    return f"images/{name}.png"


def _row(name: str, prompt: Prompt, seed: int, seconds: float | None, error: Exception | None = None) -> Generation:
    file, reason = (_file(name), None) if error is None else (None, f"drawing: {error}")
    return Generation(name, prompt.id, prompt.prompt, seed, file, seconds, reason)


def _finished(journal: Path) -> list[Generation]:
    if not journal.exists():
        return []
    rows = [Generation.from_dict(row) for row in read_jsonl(journal, partial=True)]
    return [row for row in rows if row.error is None and row.file and (journal.parent / row.file).exists()]


def _drawn(
    folder: Path,
    requests: list[Request],
    wanted: dict[str, tuple[Prompt, int]],
    drawing: Drawing,
    device: str,
    options: InferenceOptions | None,
) -> Iterator[Generation]:
    from glmkit.distributed.process_group import ProcessGroup
    from glmkit.generation import batch as engine
    from glmkit.generation.loading import device_of_rank, load_model
    from glmkit.generation.requests import bars
    from glmkit.models.devices import DTYPES

    parts = (*PARTS, "semantic_vq") if any(request.condition_images for request in requests) else PARTS
    at, dtype = device_of_rank(device), DTYPES[drawing.dtype]
    hybrid = load_model(drawing.model, at, dtype, drawing.adapters, options, parts)
    missing, todo = partial(_missing, folder), sum(_missing(folder, request) for request in requests)
    with bars() as shown:
        shown.images(0, todo)
        outcomes = engine.generate_all(
            hybrid, requests, missing, folder / WORK, progress=shown.progress, group=ProcessGroup.from_environment()
        )
        for done, outcome in enumerate(outcomes, start=1):
            name = outcome.request.id
            if outcome.image is not None:
                save_image(folder / _file(name), outcome.image, outcome.request, hybrid.name, hybrid.adapters)
            yield _row(name, *wanted[name], round(outcome.seconds, 3), outcome.error)
            shown.images(done, todo)


def _drawn_by(
    baseline: Baseline,
    folder: Path,
    requests: list[Request],
    wanted: dict[str, tuple[Prompt, int]],
    drawing: Drawing,
    device: str,
    options: InferenceOptions | None,
) -> Iterator[Generation]:
    baseline.start(device, drawing.dtype, options or InferenceOptions())
    for done in draw_missing(
        baseline, drawing.model, requests, lambda request: folder / _file(request.id), folder / WORK
    ):
        name = done.request.id
        yield _row(name, *wanted[name], round(done.seconds, 3), done.error)


def copy(folder: Path, found: ImageFiles, prompts: Sequence[Prompt], seeds: int | None) -> list[Generation]:
    """Copy images into the run folder, in prompt order; a prompt without its image is a row with an error.

    Each prompt should have seeds 0 to `seeds` - 1; without `seeds` as many as the prompt with the most images, so
    that what is missing counts as much as what is there. Which numbers its seeds have is every prompt's own matter.
    """
    present: dict[str, list[int]] = {prompt.id: [] for prompt in prompts}
    for name, seed in sorted(found):
        present[name].append(seed)
    most = max(map(len, present.values()))
    rows = [
        _copied(folder, found.get((prompt.id, seed)), prompt, seed)
        for prompt in prompts
        for seed in (_filled(present[prompt.id], most) if seeds is None else range(seeds))
    ]
    write_jsonl(folder / "images.jsonl", (row.to_dict() for row in rows))
    return rows


def _filled(seeds: Sequence[int], count: int) -> list[int]:
    """These seeds and the lowest ones that they lack, `count` in all."""
    absent = (seed for seed in itertools.count() if seed not in seeds)
    return sorted([*seeds, *itertools.islice(absent, count - len(seeds))])


def _copied(folder: Path, source: Path | GridTile | None, prompt: Prompt, seed: int) -> Generation:
    row = Generation(f"{prompt.id}_{seed}", prompt.id, prompt.prompt, seed)
    if source is None:
        return replace(row, error="not in the folder")
    if isinstance(source, GridTile):
        return _cut(folder, source, row)
    file = f"images/{row.id}{source.suffix.lower()}"
    target = folder / file
    if not target.exists() or file_sha256(target) != file_sha256(source):
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    return replace(row, file=file)


def _cut(folder: Path, tile: GridTile, row: Generation) -> Generation:
    """One image of a grid, saved as OneIG-Bench saves it before it reads it: JPEG with Pillow's quality.

    Black tiles stand for images that could not be made.
    """
    try:
        grid = read_image(tile.path)
    except UserError as error:
        return replace(row, error=error.what)
    width, height = grid.width // tile.columns, grid.height // tile.rows
    left, top = tile.column * width, tile.row * height
    image = grid.crop((left, top, left + width, top + height))
    if image.getbbox() is None:
        return replace(row, error="no image: this tile of the grid is black")
    encoded = io.BytesIO()
    image.save(encoded, format="JPEG")
    file = f"images/{row.id}.jpg"
    target = folder / file
    if not target.exists() or target.read_bytes() != encoded.getvalue():
        with atomic_path(target) as temporary:
            temporary.write_bytes(encoded.getvalue())
    return replace(row, file=file)
