"""Evaluate a model or images, and compare evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glmkit.errors import UserError
from glmkit.extras import require
from glmkit.generation.options import InferenceOptions, adapter_names
from glmkit.inputs.prompts import MAX_COUNT
from glmkit.records import Summary
from glmkit.shortcuts import EXACT, shortcuts

if TYPE_CHECKING:
    from pandas import DataFrame

    from glmkit.api.model import Model
    from glmkit.evaluation.plan import GenerationSettings
    from glmkit.models.hybrid import HybridModel


@dataclass(frozen=True)
class Evaluation:
    """Hold the scores of an evaluation and its folder, which `report` takes."""

    folder: Path
    summary: Summary

    def to_pandas(self) -> DataFrame:
        """Give the scores as a table: one line per split and metric, with its 95 % interval over prompts."""
        return self.summary.to_pandas()


def evaluate(
    suite: str | None = None,
    *,
    prompts: str | Path | None = None,
    texts_from: Literal["quotes"] | None = None,
    model: Model | str | Path = "nano",
    adapters: str | Path | Sequence[str | Path] = (),
    images: str | Path | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    num_images_per_prompt: int | None = None,
    seeds: Sequence[int] = (),
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    reuse: int = 1,
    guided: float = 1.0,
    vae_tiling: bool = False,
    precision: str = "exact",
    ocr: str | None = None,
    judge: str | None = None,
    answers: str | Path | None = None,
    rewrite: str | Path | None = None,
    rewrite_instruction: str | Path | None = None,
    clip: str | None = None,
    scorers: Sequence[str] = (),
    references: Sequence[str] = (),
    output: str | Path | None = None,
    name: str = "",
    device: str = "auto",
    compile: str = "auto",
    memory: str = "high",
) -> Evaluation:
    """Generate images for the prompts of a suite, or take those in the folder `images`, and score them.

    `prompts` is a file of your own prompts instead of a suite, as `glmkit generate --prompts` takes it: each with the
    `texts` that its image must show, or, with `texts_from="quotes"`, with those in its quotes.

    `model` is a loaded model or a name (nano, a folder, a hub id, `diffusers:NAME`, `openai:NAME`). `split` and `limit`
    choose prompts, the first `limit` of each split. `num_images_per_prompt` images have the prompt's seed (0 in suites)
    and those after it; `seeds` names them instead. `data` is the folder with the prompt files of a public benchmark.
    `ocr` names the OCR engine, `judge` who answers the questions of suites that ask some (`openai:MODEL`,
    `transformers:FOLDER`, `golden:FILE`, `posters`); `answers` is a folder of answers that a benchmark publishes about
    a model, instead of images. `rewrite` names who rewrites the prompts before images are generated (`endpoint:MODEL`,
    or a file of rewritten prompts), `rewrite_instruction` a file that says how; scores stay those of the prompts as
    they were. `clip` names the CLIP that measures alignment, `scorers` learned scorers with their weights
    (`pickscore:FOLDER`), `references` the sets to which distances are measured. `output` is the run folder; by default
    the same settings always continue in the same folder under `reports/`. `name` is what reports call the run, by
    default its model and adapters. Options of generation are those of `Model.generate`, `precision` is that of `load`.

    Raises UserError for whatever is misspelt or missing, before an image is generated.
    """
    from glmkit.evaluation import scorers as learned
    from glmkit.evaluation import suites
    from glmkit.evaluation.evaluate import evaluate as run_plan
    from glmkit.evaluation.judges import engines as judges
    from glmkit.evaluation.ocr import engines
    from glmkit.evaluation.plan import DEFAULT_ENGINE, EvaluationPlan
    from glmkit.evaluation.suites.shared.measured import MeasuredSuite
    from glmkit.evaluation.suites.shared.oneig_overall import OneigOverall

    suite, data = suite_of(suite, prompts, texts_from, data)
    if (height is None) != (width is None):
        raise UserError("give height and width together", fix="height=1024, width=1024")
    loaded = suites.load(suite)
    if isinstance(loaded, OneigOverall):
        return Evaluation(*loaded.combine(suite, data, None if output is None else Path(output)))
    check_amounts(limit, num_images_per_prompt, seeds)
    hybrid = None if isinstance(model, (str, Path)) else model.hybrid
    generation = None
    if images is None and answers is None:
        used, generation = _generation(
            hybrid or str(model),
            device,
            compile,
            adapters=list(adapter_names(adapters)),
            count=num_images_per_prompt or 1,
            seeds=seeds,
            size=None if height is None or width is None else f"{width}x{height}",
            steps=num_inference_steps,
            guidance=guidance_scale,
            reuse=reuse,
            guided=guided,
            vae_tiling=vae_tiling,
            precision=precision,
        )
    else:
        measures = isinstance(loaded, MeasuredSuite)
        used = _feature_device(device, needed=measures or clip is not None or bool(references or scorers))
    plan = EvaluationPlan(
        suite=suite,
        engine=DEFAULT_ENGINE if ocr is None else engines.resolve(ocr),
        data=data,
        split=split,
        limit=limit,
        generation=generation,
        images=None if images is None else Path(images),
        count=num_images_per_prompt,
        seeds=tuple(seeds),
        clip=clip,
        scorers=tuple(dict.fromkeys(map(learned.resolve, scorers))),
        references=tuple(dict.fromkeys(references)),
        name=name.strip(),
        judge=None if judge is None else judges.resolve(judge),
        answers=None if answers is None else Path(answers),
        rewrite=None if rewrite is None else str(rewrite),
        rewrite_instruction=None if rewrite_instruction is None else Path(rewrite_instruction),
    )
    folder = plan.default_folder() if output is None else Path(output)
    return Evaluation(folder, run_plan(plan, folder, used, InferenceOptions(compile, memory), hybrid))


def suite_of(
    suite: str | None, prompts: str | Path | None, texts_from: str | None, data: str | Path | None
) -> tuple[str, Path | None]:
    """Return the suite that is asked for, and where its prompts are; UserError unless they are there."""
    from glmkit.evaluation import suites

    if prompts is not None:
        if suite is not None or data is not None:
            raise UserError("own prompts are their own suite", found=suite or data, fix="leave out --suite and --data")
        suite, data = "own-prompts-quotes" if texts_from else "own-prompts", prompts
    elif texts_from is not None:
        raise UserError(
            "--texts-from belongs to own prompts", found=texts_from, fix="--prompts FILE --texts-from quotes"
        )
    elif suite is None:
        raise UserError("an evaluation needs prompts", fix="--suite text-render, or --prompts FILE; glmkit list")
    folder = None if data is None else Path(data)
    suites.load(suite).files(folder)
    return suite, folder


def check_amounts(limit: int | None, count: int | None, seeds: Sequence[int] = ()) -> None:
    """Raise UserError for numbers of prompts or images that no evaluation can have."""
    if limit is not None and limit < 1:
        raise UserError("limit must be at least 1", found=limit)
    if count is not None and not 1 <= count <= MAX_COUNT:
        raise UserError(f"images per prompt must be 1 to {MAX_COUNT}", found=count, fix="--count 4")
    if count is not None and seeds:
        raise UserError("--count and --seeds do not go together", found=f"--count {count}", fix="one of them")


def _generation(model: str | HybridModel, device: str, compile: str, **settings: Any) -> tuple[str, GenerationSettings]:
    """Choose the device, and how the images are generated; UserError for what a baseline would pass over."""
    from glmkit.evaluation import baselines
    from glmkit.evaluation.plan import GenerationSettings

    baseline = baselines.find(model) if isinstance(model, str) else None
    if baseline is not None:
        unknown = [name for name in ("steps", "guidance") if getattr(baseline.defaults, name) is None]
        given = {name: settings[name] for name in (*unknown, "adapters")} | shortcuts(settings)
        given["compile"] = compile if compile == "blocks" else None
        for name, value in given.items():
            if value:
                raise UserError(f"{model} knows no {name}", found=value, fix=f"leave out {name}")
    if not isinstance(model, str):
        used = str(model.device)
    else:
        used = _feature_device(device, needed=baseline is None or baseline.is_local)
    return used, GenerationSettings.with_defaults(model, used, baseline=baseline, **settings)


def _feature_device(device: str, *, needed: bool) -> str:
    """Choose where a model runs; where none does, nothing needs torch."""
    if not needed:
        return "cpu"
    from glmkit.generation.loading import device_of_rank

    return str(device_of_rank(device))


def price(
    folder: Path,
    settings: Sequence[str] | None = None,
    *,
    model: str = "nano",
    suite: str = "text-render",
    data: Path | None = None,
    split: Sequence[str] | None = None,
    limit: int | None = None,
    num_images_per_prompt: int = 1,
    size: str | None = None,
    ocr: str | None = None,
    repeats: int = 3,
    device: str = "auto",
) -> dict[str, Any]:
    """Compare quicker settings of denoising with exact generation in words and seconds; see `glmkit bench price`.

    `settings` are texts such as `reuse=2,guided=0.5` (default: `price.SETTINGS`). Evaluations stay in `folder`, so that
    a call that was stopped continues. Raises UserError for whatever is misspelt or missing.
    """
    import torch

    from glmkit import runs
    from glmkit.evaluation.many import ModelOfSettings
    from glmkit.evaluation.ocr import engines
    from glmkit.evaluation.plan import DEFAULT_ENGINE, EvaluationPlan, GenerationSettings
    from glmkit.evaluation.price import SETTINGS, PricePlan, measure_price, parse_settings
    from glmkit.models.hardware import device_name

    used = _feature_device(device, needed=True)
    exact = GenerationSettings.with_defaults(model, used, count=num_images_per_prompt, size=size)
    if exact.precision != EXACT["precision"]:
        what = f"{model} holds weights in 8 bits, so nothing exact is there to compare with"
        raise UserError(what, found=f"precision {exact.precision}", fix="--model with the model that it was made from")
    load = ModelOfSettings(used, InferenceOptions())
    plan = PricePlan(
        parse_settings(settings or SETTINGS, exact),
        tuple(split) if split else (None,),
        EvaluationPlan(suite, DEFAULT_ENGINE if ocr is None else engines.resolve(ocr), data, limit=limit),
    )
    return {
        "model": model,
        "suite": suite,
        "split": split,
        "limit": limit,
        "count": num_images_per_prompt,
        "ocr": plan.base.ocr,
        **measure_price(plan, folder, load, repeats),
        "dtype": exact.dtype,
        "device": device_name(torch.device(used)),
        "environment": runs.environment(used),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(
    runs: Sequence[Evaluation | str | Path],
    out: str | Path,
    names: Sequence[str] = (),
    *,
    max_mb: float | None = None,
    paper: str | Path | None = None,
) -> Path:
    """Compare evaluations on one HTML page; its data go to CSV and JSON files beside it.

    The page is the one file `out`, or above `max_mb` megabytes (default 25) `index.html` in a folder of that name.
    Tables and figures for a paper go to the folder `paper`.

    `runs` are evaluations or their folders; the first is the baseline. `names` are what the page calls them, by default
    the name of the evaluation, else its model and adapters. Returns the path of the page. Raises UserError for a folder
    that holds no evaluation.
    """
    require("matplotlib", "a report")
    from glmkit.reporting.build import write_report

    folders = [run.folder if isinstance(run, Evaluation) else Path(run) for run in runs]
    page, *_ = write_report(folders, Path(out), names, max_mb=max_mb, paper=None if paper is None else Path(paper))
    return page
