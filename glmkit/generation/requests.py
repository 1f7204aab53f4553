"""What `glmkit generate` and `glmkit edit` do: load the model, read requests, draw into files, resume."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from glmkit import errors
from glmkit.config import parse_size
from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.files import append_jsonl, read_jsonl, write_jsonl
from glmkit.generation import pipeline
from glmkit.generation.batch import generate_all
from glmkit.generation.images import is_drawn, save_image
from glmkit.generation.loading import device_of_rank, load_model
from glmkit.generation.options import Options
from glmkit.generation.sequence import MAX_ASPECT, TOKEN_PIXELS
from glmkit.models import checkpoint
from glmkit.models.checkpoint import defaults
from glmkit.models.devices import DTYPES, dtype_for
from glmkit.models.hybrid import HybridModel
from glmkit.records import Generation, Prompt, Request

ROW_KEYS = {"id", "prompt", "seed", "size", "steps", "guidance", "condition_images"}
# A suite's prompts can be drawn as they are; what they say about the expected image is not needed here.
PASSED_OVER = {field.name for field in fields(Prompt)} - ROW_KEYS
SAFE_ID = re.compile(r"\w[\w.-]*")


def request_of(options: Options, folder: Path, name: str, prompt: str) -> Request:
    """A request with the model's defaults where nothing was said."""
    usual = defaults.of(folder)
    height, width = parse_size(options.size) if options.size else (usual.height, usual.width)
    steps = usual.steps if options.steps is None else options.steps
    guidance = usual.guidance if options.guidance is None else options.guidance
    return Request(name, prompt, options.seed, height, width, steps=steps, guidance=guidance)


def load(options: Options, requests: Sequence[Request]) -> HybridModel:
    """The model with its adapters merged and every part that `requests` need, so that a broken file shows at once."""
    device = device_of_rank(options.device)
    dtype = dtype_for(device) if options.dtype == "auto" else DTYPES[options.dtype]
    edits = any(request.condition_images for request in requests)
    parts = [part for part in checkpoint.COMPONENTS if part != "semantic_vq" or edits]
    return load_model(options.model, device, dtype, options.adapters, options.inference, parts)


def size_like(width: int, height: int, usual: defaults.Defaults) -> tuple[int, int]:
    """(height, width) of the model's usual area in the shape of an image of this size, as multiples of 32."""
    scale = math.sqrt(usual.height * usual.width / (width * height))
    sides = [max(TOKEN_PIXELS, round(side * scale / TOKEN_PIXELS) * TOKEN_PIXELS) for side in (height, width)]
    limit = MAX_ASPECT * min(sides)
    return min(sides[0], limit), min(sides[1], limit)


def read_requests(path: Path, base: Request) -> list[Request]:
    """Requests from a JSONL file: `prompt`, and optionally `id`, `seed`, `size`, `steps`, `guidance`,
    `condition_images`.

    What a row does not say is taken from `base`; ids default to the row's number; paths of images are relative to the file.
    UserError names the row that cannot be drawn.
    """
    requests = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            requests.append(_request(row, replace(base, id=f"{number:04d}"), path.parent))
        except UserError as error:
            raise UserError(f"{path}, row {number}: {error.what}", found=error.found, fix=error.fix) from error
    if not requests:
        raise UserError(f"{path} has no rows", fix='one object a line: {"id": "first", "prompt": "a red poster"}')
    names: set[str] = set()
    for request in requests:
        if request.id in names:
            raise UserError(f"{path}: two rows have the id {request.id!r}", fix="give every row an id of its own")
        names.add(request.id)
    return requests


def _request(row: dict[str, Any], base: Request, folder: Path) -> Request:
    for key in row:
        if key not in ROW_KEYS | PASSED_OVER:
            raise errors.unknown("key", key, ROW_KEYS)
    values = {key: row[key] for key in ("id", "prompt", "seed", "steps", "guidance") if row.get(key) is not None}
    if not isinstance(values.get("prompt"), str):
        raise UserError("the prompt is missing", found=row)
    wrong = [
        key for key, kind in (("seed", int), ("steps", int), ("guidance", (int, float))) if not _is(values, key, kind)
    ]
    if wrong:
        raise UserError(f"{wrong[0]} is not a number", found=repr(values[wrong[0]]))
    values["id"] = str(values.get("id", base.id))
    if not SAFE_ID.fullmatch(values["id"]):
        raise UserError("an id must be a file name of letters, digits, '_', '-' and '.'", found=values["id"])
    if row.get("size") is not None:
        values["height"], values["width"] = parse_size(str(row["size"]))
    if row.get("condition_images"):
        if not isinstance(row["condition_images"], list):
            raise UserError("condition_images must be a list of paths", found=row["condition_images"])
        values["condition_images"] = tuple(str(folder / path) for path in row["condition_images"])
    request = replace(base, **values)
    pipeline.check(request)
    return request


def _is(values: dict[str, Any], key: str, kind: Any) -> bool:
    return key not in values or (isinstance(values[key], kind) and not isinstance(values[key], bool))


def draw_file(options: Options, request: Request, path: Path) -> str:
    """Draw one request into `path`; returns what was done as a line for people, or of JSON."""
    pipeline.check(request)
    started = time.perf_counter()
    hybrid = load(options, [request])
    with bars() as shown:
        (image,) = pipeline.draw(hybrid, [request], shown.progress)
    save_image(path, image, request, hybrid.name, hybrid.adapters)
    seconds = round(time.perf_counter() - started, 2)
    if not options.json:
        return f"{path}: {request.width}x{request.height}, seed {request.seed}, {seconds} s"
    facts = {key: value for key, value in request.to_dict().items() if key != "id"}
    facts |= {"model": hybrid.name, "adapters": hybrid.adapters, "seconds": seconds}
    return json.dumps({"file": str(path), **facts}, ensure_ascii=False)


@dataclass(frozen=True)
class Drawn:
    """What became of a list of requests: a row for each, in their order, and how many were there already."""

    rows: tuple[Generation, ...]
    skipped: int

    @property
    def failed(self) -> int:
        return sum(row.error is not None for row in self.rows)


def draw_folder(options: Options, requests: Sequence[Request], out: Path, batch_size: int, shown: Bars) -> Drawn:
    """Draw `<id>.png` for every request into `out`, with one row each in `images.jsonl`.

    Complete images of exactly these requests, model and adapters are kept; failures are rows with their error and
    are tried again by the next run. The model is loaded only when there is something to draw.
    """
    group, journal, work = ProcessGroup.from_environment(), out / "images.jsonl", out / ".work"
    drawn_with = (options.model, options.adapters)
    old = _journal(journal)
    kept = {
        one.id: _row(one, old.get(one.id, {}).get("seconds")) for one in requests if _is_there(out, one, drawn_with)
    }
    todo, rows = len(requests) - len(kept), dict(kept)
    if todo:
        hybrid = load(options, requests)
        if group.world_size == 1:  # several processes only add to it, until all is drawn
            write_jsonl(journal, (row.to_dict() for row in rows.values()))
        shown.images(0, todo)

        there = set(kept)  # an image is read whole to see that it is there: once is enough

        def missing(request: Request) -> bool:
            if request.id not in there and _is_there(out, request, drawn_with):
                there.add(request.id)
            return request.id not in there

        for outcome in generate_all(hybrid, requests, missing, work, batch_size, shown.progress, group):
            request = outcome.request
            if outcome.image is not None:
                save_image(out / f"{request.id}.png", outcome.image, request, *drawn_with)
            rows[request.id] = _row(request, round(outcome.seconds, 3), outcome.error)
            append_jsonl(journal, rows[request.id].to_dict())
            shown.images(len(rows) - len(kept), todo)
    others = {name: Generation.from_dict(row) for name, row in _journal(journal).items()}
    # A process that was killed right after it saved an image has left no row.
    ordered = tuple(rows.get(one.id) or others.get(one.id) or _row(one, None) for one in requests)
    if group.is_main:
        write_jsonl(journal, (row.to_dict() for row in ordered))
        shutil.rmtree(work, ignore_errors=True)
    return Drawn(ordered, len(kept))


def _journal(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_jsonl(path, partial=True)} if path.exists() else {}


def _is_there(out: Path, request: Request, drawn_with: tuple[str, tuple[str, ...]]) -> bool:
    return is_drawn(out / f"{request.id}.png", request, *drawn_with)


def _row(request: Request, seconds: float | None, error: Exception | None = None) -> Generation:
    file = None if error else f"{request.id}.png"
    return Generation(
        request.id, request.id, request.prompt, request.seed, file, seconds, str(error) if error else None
    )


class Bars:
    """Progress bars on stderr: the images of a list, and the codes and denoising steps of the present batch."""

    def __init__(self, display: Any) -> None:
        self._display, self._tasks = display, dict[str, Any]()

    def _show(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._display.start()
            self._tasks[name] = self._display.add_task(name, total=total)
        self._display.update(self._tasks[name], completed=done, total=total)

    def progress(self, stage: str, done: int, total: int) -> None:
        self._show(stage, done, total)

    def images(self, done: int, total: int) -> None:
        self._show("images", done, total)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars that appear with the first step and end with the block."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    silent = not ProcessGroup.from_environment().is_main  # the first of several processes shows its own
    display = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=silent)
    try:
        yield Bars(display)
    finally:
        if display.tasks:
            display.stop()
