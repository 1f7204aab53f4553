"""Compare checkpoints, weights and guidances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glmkit.api.evaluation import check_amounts, suite_of
from glmkit.errors import UserError, unknown
from glmkit.extras import require
from glmkit.generation.options import InferenceOptions, adapter_names

if TYPE_CHECKING:
    from glmkit.evaluation.sweep import SweepPlan


@dataclass(frozen=True)
class Sweep:
    """Hold a sweep: its folder, the page that shows it, and the recommended `adapters` and `guidance`.

    `sentence` says why these, and which combination may be as good.
    """

    folder: Path
    page: Path
    adapters: tuple[str, ...]
    guidance: float
    sentence: str


@dataclass(frozen=True)
class PlannedSweep:
    """Hold what a sweep will do, before it does it."""

    plan: SweepPlan
    device: str
    options: InferenceOptions
    adapter: str | None = None

    def folder(self, output: str | Path | None = None) -> Path:
        """Return the folder of the sweep: the chosen one, else the same one for the same adapter and settings."""
        return self.plan.default_folder(self.adapter) if output is None else Path(output)

    def estimate(self) -> dict[str, Any]:
        """Count combinations, images and prior tokens, and estimate seconds; see `glmkit.evaluation.sweep.estimate`."""
        from glmkit.evaluation.sweep import estimate

        return estimate(self.plan, self.device, self.options)

    def run(self, output: str | Path | None = None, metric: str | None = None, prefer: str = "best") -> Sweep:
        """Evaluate what is missing in the folder, and write its page; see `sweep`."""
        require("matplotlib", "the page of a sweep")
        from glmkit.evaluation import suites
        from glmkit.evaluation.sweep import run_sweep
        from glmkit.reporting.sweep import PREFERRED, write_sweep

        metrics = suites.load(self.plan.base.suite).metrics
        if metric is not None and metric not in metrics:
            raise unknown("metric", metric, metrics)
        if prefer not in PREFERRED:
            raise unknown("preference", prefer, PREFERRED)
        folder = self.folder(output)
        run_sweep(self.plan, folder, self.device, self.options)
        page, result = write_sweep(folder, metric, prefer)
        best = result.recommended.combination
        return Sweep(folder, page, best.adapters, best.guidance, result.sentence)


def sweep(
    suite: str | None = None,
    *,
    output: str | Path | None = None,
    metric: str | None = None,
    prefer: str = "best",
    **options: Any,
) -> Sweep:
    """Evaluate every combination of checkpoints, weights and guidances in the folder `output`, and compare them.

    Without `output` it is one in `reports`, the same for the same adapter and settings. `metric` decides, by default
    the first of the suite, and `prefer` says how: "best" recommends the best score, "strongest" the largest weight,
    and then most steps, whose difference from it is not resolved: the most of a style that costs no words. A sweep
    that was stopped goes on, and one that is repeated with more values only adds what is missing. `options` are
    those of `plan_sweep`. Raises UserError for whatever is misspelt or missing, before an image is generated.
    """
    return plan_sweep(suite, **options).run(output, metric, prefer)


def plan_sweep(
    suite: str | None = None,
    *,
    prompts: str | Path | None = None,
    texts_from: Literal["quotes"] | None = None,
    model: str | Path = "nano",
    adapter: str | Path | None = None,
    weights: Sequence[float | str] = (1,),
    checkpoints: Sequence[int | str] = ("last",),
    guidance: Sequence[float | str] = (),
    adapters: str | Path | Sequence[str | Path] = (),
    data: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    num_images_per_prompt: int | None = None,
    seeds: Sequence[int] = (),
    size: str | None = None,
    num_inference_steps: int | None = None,
    ocr: str | None = None,
    judge: str | None = None,
    device: str = "auto",
    compile: str = "auto",
    memory: str = "high",
) -> PlannedSweep:
    """Check the options of a sweep.

    `adapter` is a run of `finetune` or an adapter; `weights` are numbers, or texts like "0.25:1.25:0.25", of which 0 is
    the model without it. `checkpoints` are ["last"], ["all"] or numbers of steps, where the run kept its checkpoints.
    `guidance` is the model's where it is empty. `adapters` are in every combination. The other options are those of
    `evaluate`. Raises UserError for whatever is misspelt or missing.
    """
    from glmkit.evaluation import baselines
    from glmkit.evaluation.judges import engines as judges
    from glmkit.evaluation.ocr import engines
    from glmkit.evaluation.plan import DEFAULT_ENGINE, EvaluationPlan, GenerationSettings
    from glmkit.evaluation.sweep import SweepPlan, parse_numbers
    from glmkit.generation.loading import device_of_rank

    suite, folder = suite_of(suite, prompts, texts_from, data)
    check_amounts(limit, num_images_per_prompt, seeds)
    kept, strengths = _swept(adapter, list(map(str, weights)), list(map(str, checkpoints)))
    if baselines.find(str(model)) is not None:
        raise UserError("a sweep needs a model of ours", found=model, fix="nano, a model folder or a hub id")
    used = str(device_of_rank(device))
    generation = GenerationSettings.with_defaults(
        str(model),
        used,
        adapters=list(adapter_names(adapters)),
        count=num_images_per_prompt or 1,
        seeds=seeds,
        size=size,
        steps=num_inference_steps,
    )
    base = EvaluationPlan(
        suite=suite,
        engine=DEFAULT_ENGINE if ocr is None else engines.resolve(ocr),
        data=folder,
        split=split,
        limit=limit,
        generation=generation,
        judge=None if judge is None else judges.resolve(judge),
    )
    plan = SweepPlan(
        base,
        kept,
        strengths,
        parse_numbers(list(map(str, guidance)), "--guidance") or [float(generation.guidance or 0)],
        generation.adapters,
    )
    return PlannedSweep(plan, used, InferenceOptions(compile, memory), None if adapter is None else str(adapter))


def _swept(
    adapter: str | Path | None, weights: Sequence[str], checkpoints: Sequence[str]
) -> tuple[list[tuple[int | None, tuple[str, ...]]], list[float]]:
    """Find the checkpoints of an adapter and the weights to take it with; without one, the model alone."""
    from glmkit.evaluation.sweep import SweptAdapter, parse_numbers

    strengths = parse_numbers(weights, "--weights")
    if adapter is not None:
        return SweptAdapter.find(str(adapter)).choose(checkpoints), strengths
    if strengths != [1] or [*checkpoints] != ["last"]:
        raise UserError("weights and checkpoints are those of an adapter", fix="--adapter RUN")
    return [(None, ())], [0]
