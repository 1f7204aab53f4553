"""Prompts -> images -> read lines -> scores -> summary. Every stage writes its file and continues a killed run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.distributed.work_queue import exclusive
from glmkit.errors import UserError
from glmkit.evaluation import baselines, stats, suites
from glmkit.evaluation.baselines import Baseline
from glmkit.evaluation.images import Drawing, copy, draw, write_references
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.ocr.cache import recognize
from glmkit.evaluation.ocr.lines import EngineIdentity, OcrError, OcrResult, reading_order
from glmkit.evaluation.suites.shared.base import Suite, family, why_not_official
from glmkit.evaluation.suites.shared.layouts import ImageFiles
from glmkit.files import write_json, write_jsonl
from glmkit.generation.options import InferenceOptions
from glmkit.hashing import file_sha256, fingerprint
from glmkit.records import Generation, Prompt, Score, Summary
from glmkit.runs import open_run

if TYPE_CHECKING:
    from glmkit.evaluation.measures import Measures

ENGINE = "glmkit.evaluation.ocr.engines.paddleocr"
MIN_CONFIDENCE = 0.5  # as the public CVTG-2K scripts; lines below are what OCR imagines in textures


@dataclass(frozen=True)
class Plan:
    """What one evaluation measures: images that a model draws (`drawing`), or those in the folder `images`.

    `engine` is the module of the OCR engine, MODULE or MODULE:WHERE (`engines`). `data` is the folder with the prompt
    files of a public benchmark. `seeds` is how many images a prompt should have in `images`; None takes what is
    there. `clip` names the CLIP that measures alignment, `references` the sets to which distances are measured.
    """

    suite: str
    engine: str
    data: Path | None = None
    split: str | None = None
    limit: int | None = None
    drawing: Drawing | None = None
    images: Path | None = None
    seeds: int | None = None
    clip: str | None = None
    references: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The model, or the name of the image folder."""
        return self.drawing.model if self.drawing is not None else self._images.name

    @property
    def _images(self) -> Path:
        """The absolute image folder; UserError when there is none."""
        if self.images is None or not self.images.is_dir():
            raise UserError(
                f"image folder {self.images} does not exist", fix="--images FOLDER with <prompt id>.png files"
            )
        return self.images.resolve()

    @cached_property
    def engine_identity(self) -> EngineIdentity:
        """The OCR engine with its weights and versions; finding out may start the engine or hash its weights."""
        module, location = engines.find(self.engine)
        identity: EngineIdentity = module.identity(location)
        return identity

    @cached_property
    def baseline(self) -> Baseline | None:
        """What draws when it is no model of ours; finding out may download it."""
        return baselines.find(self.drawing.model) if self.drawing is not None else None

    def prompt_files(self) -> dict[str, str]:
        """The prompt files of the suite, by their place in `data`, with their sha256."""
        files = suites.load(self.suite).files(self.data)
        return {
            (path.relative_to(self.data).as_posix() if self.data else path.name): file_sha256(path) for path in files
        }

    def settings(self) -> dict[str, Any]:
        """What decides images and readings, as JSON values; prompts and weights by fingerprint.

        CLIP and reference sets may be added to a run later; the summary says which they were.
        """
        shared = {
            "suite": self.suite,
            "suite_fingerprint": _digest(self.prompt_files())[:16],
            "split": self.split,
            "limit": self.limit,
            "ocr": f"{self.engine_identity} confidence>={MIN_CONFIDENCE}",
        }
        if self.drawing is None:
            return {**shared, "images": str(self._images), "seeds": self.seeds}
        if self.baseline is not None:
            return {**shared, **asdict(self.drawing), "adapters": [], **self.baseline.identity()}
        from glmkit.models.checkpoint import resolve
        from glmkit.models.checkpoint.adapters import Adapter, check_adapter

        model = resolve(self.drawing.model)
        for adapter in self.drawing.adapters:
            check_adapter(model, Adapter.parse(adapter).folder)
        adapters = [
            {"path": path, "fingerprint": fingerprint(Adapter.parse(path).folder)} for path in self.drawing.adapters
        ]
        return {**shared, **asdict(self.drawing), "model_fingerprint": fingerprint(model), "adapters": adapters}

    def default_folder(self) -> Path:
        """Where the run goes when nobody says: the same settings always continue in the same folder."""
        name = re.sub(r"[^\w.-]", "-", Path(self.name).name)
        return Path("reports") / f"{self.suite}-{name}-{_digest(self.settings())[:8]}"


def evaluate(plan: Plan, folder: Path, device: str = "cpu", options: InferenceOptions | None = None) -> Summary:
    """Run the plan in `folder`, or continue it there; UserError with the difference when it holds another plan.

    Images are drawn, and their features extracted, on `device`; OCR runs on the CPU. Writes manifest.json,
    references/ (where the suite has some), images.jsonl, images/, recognized_lines.jsonl (raw OCR), scores.jsonl and
    summary.json.
    """
    suite = suites.load(plan.suite)
    prompts = suites.prompts(suite, plan.split, plan.limit, plan.data)
    settings = plan.settings()
    measures = _measures(plan, device)
    found: ImageFiles | None = None
    if plan.drawing is None:
        found = suite.find(Path(settings["images"]), prompts)
        open_run(folder, "eval", settings)
        write_references(folder, suite, prompts)
        generations = copy(folder, found, prompts, plan.seeds)
    else:
        _check(plan, plan.drawing, suite, prompts)
        open_run(folder, "eval", settings, device)
        condition_images = write_references(folder, suite, prompts)
        generations = draw(folder, prompts, plan.drawing, device, condition_images, options, plan.baseline)
    with exclusive(folder):  # what another process reads and measures at this moment must not be done twice
        return _scored(plan, suite, prompts, generations, found, folder, measures)


def _check(plan: Plan, drawing: Drawing, suite: Suite, prompts: Sequence[Prompt]) -> None:
    """UserError for what cannot be drawn, before anything is."""
    if plan.baseline is None:
        from glmkit.generation.pipeline import check

        for prompt in prompts:
            check(drawing.request(prompt, 0))
    elif "source" in suite.references(prompts[0]):
        raise UserError(f"{plan.suite} asks for edits", found=drawing.model, fix="a model of ours, or --images DIR")


def _scored(
    plan: Plan,
    suite: Suite,
    prompts: Sequence[Prompt],
    generations: Sequence[Generation],
    found: ImageFiles | None,
    folder: Path,
    measures: Measures | None,
) -> Summary:
    """From the images of a run to its summary; writes recognized_lines.jsonl, scores.jsonl and summary.json."""
    by_id = {prompt.id: prompt for prompt in prompts}
    answers = {name: suite.max_answer_tokens(prompt) for name, prompt in by_id.items()}
    read = recognize(folder, generations, plan.engine, plan.engine_identity, answers)
    scores = [score(suite, by_id[row.prompt_id], row, read, folder) for row in generations]
    if measures is not None:
        scores = measures.scores(folder, generations, scores)
    write_jsonl(folder / "scores.jsonl", (row.to_dict() for row in scores))
    summary = summarise(plan, suite, scores, plan.engine_identity, found)
    if measures is not None:
        summary = measures.summary(folder, generations, scores, summary)
    write_json(folder / "summary.json", summary.to_dict())
    return summary


def _measures(plan: Plan, device: str) -> Measures | None:
    """What the plan measures by image features; torch is imported for nothing else."""
    if plan.clip is None and not plan.references:
        return None
    from glmkit.evaluation.measures import Measures

    return Measures.load(plan.clip, plan.references, device)


def score(suite: Suite, prompt: Prompt, row: Generation, read: Mapping[str, OcrResult], folder: Path) -> Score:
    """One image: compared when it was drawn and read, otherwise a row with the error."""
    empty = Score(row.id, prompt.id, row.seed, prompt.split, prompt.language, prompt.texts)
    if row.file is None or row.id not in read:
        return replace(empty, error=row.error)
    result = read[row.id]
    if isinstance(result, OcrError):
        return replace(empty, error=f"OCR: {result}")
    lines = tuple(line.text for line in reading_order(result) if line.confidence >= MIN_CONFIDENCE)
    return replace(empty, recognized_lines=lines, counts=suite.counts(prompt, lines, folder / row.file))


def summarise(
    plan: Plan, suite: Suite, scores: Sequence[Score], identity: EngineIdentity, found: ImageFiles | None
) -> Summary:
    """Pooled scores of everything and of each split, with intervals over prompts, and what they may be called.

    `found` are the image files, None when a model drew them.
    """
    splits = dict.fromkeys(row.split for row in scores)
    why_not: tuple[str, ...] = ()
    if suite.official is not None:
        why_not = why_not_official(suite.official, identity, plan.prompt_files(), scores, found)
    return Summary(
        suite=plan.suite,
        model=plan.name,
        adapters=plan.drawing.adapters if plan.drawing is not None else (),
        **_pooled(suite, scores),
        splits={split: _pooled(suite, [row for row in scores if row.split == split]) for split in splits},
        metrics=suite.metrics,
        ocr=f"{identity} confidence>={MIN_CONFIDENCE}",
        bootstrap={"unit": "prompt", "resamples": stats.RESAMPLES, "level": stats.LEVEL, "seed": stats.SEED},
        family=family(suite, identity, why_not),
        why_not_official=why_not,
    )


def _pooled(suite: Suite, scores: Sequence[Score]) -> dict[str, Any]:
    scored = [row for row in scores if row.error is None]
    estimates = {metric: stats.estimate(scored, metric) for metric in suite.metrics}
    return {
        "n_scored": len(scored),
        "n_total": len(scores),
        "n_prompts": len({row.prompt_id for row in scored}),
        "scores": {metric: {"value": e.value, "low": e.low, "high": e.high} for metric, e in estimates.items()},
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
