"""Images that a model of ours or a baseline generates for a run, one `Generation` each in images.jsonl."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.evaluation.baseline_images import draw_missing
from glmkit.evaluation.baselines import Baseline
from glmkit.evaluation.plan import GenerationSettings
from glmkit.files import append_jsonl, read_jsonl, write_jsonl
from glmkit.generation.images import save_image
from glmkit.generation.options import InferenceOptions
from glmkit.records import Generation, Prompt, Request

if TYPE_CHECKING:
    from glmkit.models.hybrid import HybridModel

WORK = ".work"
PARTS = ("autoregressive", "glyph", "decoder", "vae")


def generate_images(
    folder: Path,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    device: str,
    condition_images: Mapping[str, tuple[str, ...]],
    options: InferenceOptions | None = None,
    baseline: Baseline | None = None,
    model: HybridModel | None = None,
) -> list[Generation]:
    """Generate what the run folder lacks, and what failed before; returns a record per prompt and seed, in their order.

    `condition_images` are the images to edit, by prompt id. A `baseline` or a loaded `model` generates instead of the
    model that `settings` names.

    The codes of all come first and wait in `.work` (see `glmkit.generation.batch`); several processes that a launcher
    started on the same folder share the images.
    """
    journal = folder / "images.jsonl"
    wanted = {f"{prompt.id}_{seed}": (prompt, seed) for prompt in prompts for seed in range(settings.seeds)}
    requests = [settings.request(prompt, seed, condition_images.get(prompt.id, ())) for prompt, seed in wanted.values()]
    rows = {row.id: row for row in _finished(journal)}
    if any(_missing(folder, request) for request in requests):
        drawn = partial(_drawn, model) if baseline is None else partial(_drawn_by, baseline)
        for row in drawn(folder, requests, wanted, settings, device, options):
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
    file, reason = (_file(name), None) if error is None else (None, f"generation: {error}")
    return Generation(name, prompt.id, prompt.prompt, seed, file, seconds, reason)


def _finished(journal: Path) -> list[Generation]:
    if not journal.exists():
        return []
    rows = [Generation.from_dict(row) for row in read_jsonl(journal, partial=True)]
    return [row for row in rows if row.error is None and row.file and (journal.parent / row.file).exists()]


def _drawn(
    model: HybridModel | None,
    folder: Path,
    requests: list[Request],
    wanted: dict[str, tuple[Prompt, int]],
    settings: GenerationSettings,
    device: str,
    options: InferenceOptions | None,
) -> Iterator[Generation]:
    from glmkit.distributed.process_group import ProcessGroup
    from glmkit.generation import batch as engine
    from glmkit.generation.loading import device_of_rank, load_model
    from glmkit.generation.requests import bars
    from glmkit.models.devices import DTYPES

    if model is None:
        parts = (*PARTS, "semantic_vq") if any(request.condition_images for request in requests) else PARTS
        at, dtype = device_of_rank(device), DTYPES[settings.dtype]
        model = load_model(settings.model, at, dtype, settings.adapters, options, parts)
    missing, todo = partial(_missing, folder), sum(_missing(folder, request) for request in requests)
    with bars() as shown:
        shown.images(0, todo)
        outcomes = engine.generate_all(
            model, requests, missing, folder / WORK, progress=shown.progress, group=ProcessGroup.from_environment()
        )
        for done, outcome in enumerate(outcomes, start=1):
            name = outcome.request.id
            if outcome.image is not None:
                save_image(folder / _file(name), outcome.image, outcome.request, model.name, model.adapters)
            yield _row(name, *wanted[name], round(outcome.seconds, 3), outcome.error)
            shown.images(done, todo)


def _drawn_by(
    baseline: Baseline,
    folder: Path,
    requests: list[Request],
    wanted: dict[str, tuple[Prompt, int]],
    settings: GenerationSettings,
    device: str,
    options: InferenceOptions | None,
) -> Iterator[Generation]:
    baseline.prepare(device, settings.dtype, options or InferenceOptions())
    for done in draw_missing(
        baseline, settings.model, requests, lambda request: folder / _file(request.id), folder / WORK
    ):
        name = done.request.id
        yield _row(name, *wanted[name], round(done.seconds, 3), done.error)
