"""Prompts -> pictures -> read lines -> scores -> summary. Every stage writes its file and continues a killed run."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from glmkit.errors import UserError
from glmkit.evaluation import stats, suites
from glmkit.evaluation.pictures import Drawing, copy, draw, find, sha256, write_references
from glmkit.evaluation.reading import Line, ReadError, read_all, reading_order
from glmkit.files import append_jsonl, read_jsonl, write_json, write_jsonl
from glmkit.records import Generation, Prompt, Score, Summary
from glmkit.runs import fingerprint, open_run

ENGINE = "glmkit.evaluation.engines.paddleocr"
MIN_CONFIDENCE = 0.5  # as the public CVTG-2K scripts; lines below are what OCR imagines in textures

Readings = Mapping[str, tuple[Line, ...] | ReadError]


@dataclass(frozen=True)
class Plan:
    """What one evaluation measures: pictures that a model draws (`drawing`), or those in the folder `images`.

    `engine` is the module name of the OCR engine. `seeds` is how many pictures a prompt should have in `images`; None
    takes what is there.
    """

    suite: str
    engine: str
    split: str | None = None
    limit: int | None = None
    drawing: Drawing | None = None
    images: Path | None = None
    seeds: int | None = None

    @property
    def name(self) -> str:
        """The model, or the name of the picture folder."""
        return self.drawing.model if self.drawing is not None else self._images.name

    @property
    def _images(self) -> Path:
        """The absolute picture folder; UserError when there is none."""
        if self.images is None or not self.images.is_dir():
            raise UserError(
                f"picture folder {self.images} does not exist", fix="--images FOLDER with <prompt id>.png files"
            )
        return self.images.resolve()

    def settings(self) -> dict[str, Any]:
        """Everything that decides the numbers, as JSON values; prompts and weights by fingerprint."""
        shared = {
            "suite": self.suite,
            "suite_fingerprint": fingerprint(suites.load(self.suite).PROMPTS),
            "split": self.split,
            "limit": self.limit,
            "ocr": f"{importlib.import_module(self.engine).identity()} confidence>={MIN_CONFIDENCE}",
        }
        if self.drawing is None:
            return {**shared, "images": str(self._images), "seeds": self.seeds}
        from glmkit.models.adapter import check_adapter
        from glmkit.models.checkpoint import resolve

        model = resolve(self.drawing.model)
        for adapter in self.drawing.adapters:
            check_adapter(model, Path(adapter))
        adapters = [{"path": path, "fingerprint": fingerprint(path)} for path in self.drawing.adapters]
        return {**shared, **asdict(self.drawing), "model_fingerprint": fingerprint(model), "adapters": adapters}

    def default_folder(self) -> Path:
        """Where the run goes when nobody says: the same settings always continue in the same folder."""
        settings = json.dumps(self.settings(), sort_keys=True).encode()
        name = Path(self.name).name
        return Path("reports") / f"{self.suite}-{name}-{hashlib.sha256(settings).hexdigest()[:8]}"


def evaluate(plan: Plan, folder: Path, device: str = "cpu") -> Summary:
    """Run the plan in `folder`, or continue it there; UserError with the difference when it holds another plan.

    Pictures are drawn on `device`; OCR runs on the CPU. Writes manifest.json, references/ (where the suite has some),
    images.jsonl, pictures/, readings.jsonl (raw OCR), scores.jsonl and summary.json.
    """
    suite = suites.load(plan.suite)
    prompts = suites.prompts(suite, plan.split, plan.limit)
    settings = plan.settings()
    if plan.drawing is None:
        found = find(Path(settings["images"]), prompts)
        open_run(folder, "eval", settings)
        write_references(folder, suite, prompts)
        generations = copy(folder, found, prompts, plan.seeds)
    else:
        from glmkit.generation.pipeline import check

        check(plan.drawing.request(prompts[0], 0))
        open_run(folder, "eval", settings, device)
        sources = write_references(folder, suite, prompts)
        generations = draw(folder, prompts, plan.drawing, device, sources)
    read = readings(folder, generations, plan.engine)
    by_id = {prompt.id: prompt for prompt in prompts}
    scores = [score(suite, by_id[row.prompt_id], row, read, folder) for row in generations]
    write_jsonl(folder / "scores.jsonl", (row.to_row() for row in scores))
    summary = summarise(plan, suite, scores, settings["ocr"])
    write_json(folder / "summary.json", summary.to_row())
    return summary


def readings(folder: Path, generations: Sequence[Generation], engine: str) -> Readings:
    """Picture id -> its lines, or why they could not be read. Content that was read before is not read again."""
    journal = folder / "readings.jsonl"
    identity = importlib.import_module(engine).identity()
    known: dict[str, tuple[Line, ...] | ReadError] = {}
    for row in read_jsonl(journal, partial=True) if journal.exists() else []:
        if row["engine"] == identity:
            known[row["sha256"]] = tuple(Line.from_row(line) for line in row["lines"])
    contents = {row.id: (sha256(folder / row.file), folder / row.file) for row in generations if row.file}
    unread = {path: content for content, path in dict(contents.values()).items() if content not in known}
    results = read_all(list(unread), engine) if unread else ()
    for path, result in track(results, "reading", len(unread), console=Console(stderr=True), disable=not unread):
        known[unread[path]] = result
        if not isinstance(result, ReadError):
            lines = [line.to_row() for line in result]
            append_jsonl(journal, {"sha256": unread[path], "engine": identity, "lines": lines})
    return {name: known[content] for name, (content, _) in contents.items()}


def score(suite: suites.Suite, prompt: Prompt, row: Generation, read: Readings, folder: Path) -> Score:
    """One picture: compared when it was drawn and read, otherwise a row with the error."""
    empty = Score(row.id, prompt.id, row.seed, prompt.split, prompt.language, prompt.texts)
    if row.file is None or row.id not in read:
        return replace(empty, error=row.error)
    result = read[row.id]
    if isinstance(result, ReadError):
        return replace(empty, error=f"OCR: {result}")
    lines = tuple(line.text for line in reading_order(result) if line.confidence >= MIN_CONFIDENCE)
    return replace(empty, read=lines, counts=suite.counts(prompt, lines, folder / row.file))


def summarise(plan: Plan, suite: suites.Suite, scores: Sequence[Score], ocr: str) -> Summary:
    """Pooled scores of everything and of each split, with intervals over prompts."""
    splits = dict.fromkeys(row.split for row in scores)
    return Summary(
        suite=plan.suite,
        model=plan.name,
        adapters=plan.drawing.adapters if plan.drawing is not None else (),
        **_pooled(suite, scores),
        splits={split: _pooled(suite, [row for row in scores if row.split == split]) for split in splits},
        metrics=suite.METRICS,
        ocr=ocr,
        bootstrap={"unit": "prompt", "resamples": stats.RESAMPLES, "level": stats.LEVEL, "seed": stats.SEED},
    )


def _pooled(suite: suites.Suite, scores: Sequence[Score]) -> dict[str, Any]:
    scored = [row for row in scores if row.error is None]
    estimates = {metric: stats.estimate(scored, metric) for metric in suite.METRICS}
    return {
        "n_scored": len(scored),
        "n_total": len(scores),
        "n_prompts": len({row.prompt_id for row in scored}),
        "scores": {metric: {"value": e.value, "low": e.low, "high": e.high} for metric, e in estimates.items()},
    }
