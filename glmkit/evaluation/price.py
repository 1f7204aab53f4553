"""What quicker settings cost in words, and what they save: the same prompts and seeds with each of them.

A setting is written `reuse=2`, or `reuse=2,guided=0.5`; what it does not name is as in exact generation. Fewer `steps`
and less `guidance` are settings, too: what a shortcut must beat. Each is an evaluation in a folder of its own, whose
scores are paired with those of exact images prompt by prompt, and seconds are measured in turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glmkit.errors import UserError, unknown
from glmkit.evaluation import stats, suites
from glmkit.evaluation.many import check_all, evaluate_all
from glmkit.evaluation.plan import EvaluationPlan, GenerationSettings
from glmkit.generation.benchmark import PROMPT, decoder_passes, measure_latency
from glmkit.models.hardware import peak_memory_gib, reset_peak_memory
from glmkit.models.hybrid import HybridModel
from glmkit.records import Prompt, Score
from glmkit.shortcuts import PRECISIONS

EXACT_SETTING = "exact"


def _precision(text: str) -> str:
    if text not in PRECISIONS:
        raise unknown("precision", text, PRECISIONS)
    return text


KEYS: Mapping[str, Callable[[str], Any]] = {
    "reuse": int,
    "guided": float,
    "vae_tiling": lambda text: bool(int(text)),
    "precision": _precision,
    "steps": int,
    "guidance": float,
}
SETTINGS = (
    *("reuse=2", "reuse=3", "guided=0.5", "reuse=2,guided=0.5", "precision=8bit", "precision=4bit"),
    *("reuse=2,guided=0.5,precision=8bit", "steps=15", "guidance=1"),
)


@dataclass(frozen=True)
class PricePlan:
    """Say what is compared: `settings` by name, exact ones first, on the `splits` of a suite (None: all prompts).

    Each plan of `plans` is one evaluation, under the path of its run in the folder of all.
    """

    settings: Mapping[str, GenerationSettings]
    splits: tuple[str | None, ...]
    base: EvaluationPlan

    def plans(self) -> dict[tuple[str, str | None], EvaluationPlan]:
        """Return the evaluation of every setting on every split."""
        return {
            (name, split): replace(self.base, split=split, generation=settings, name=name)
            for split in self.splits
            for name, settings in self.settings.items()
        }


def parse_settings(texts: Sequence[str], exact: GenerationSettings) -> dict[str, GenerationSettings]:
    """Read `key=value,...` texts as changes of exact generation; UserError for unknown keys, values, and equal ones."""
    settings = {EXACT_SETTING: exact}
    for text in texts:
        changes: dict[str, Any] = {}
        for part in text.split(","):
            key, _, value = (piece.strip() for piece in part.partition("="))
            if key not in KEYS:
                raise unknown("setting", key, KEYS)
            try:
                changes[key] = KEYS[key](value)
            except ValueError as error:
                raise UserError(f"{key} takes a number", found=part, fix=SETTINGS[0]) from error
        changed = replace(exact, **changes)
        if equal := next((name for name, other in settings.items() if other == changed), None):
            raise UserError(f"the setting {text} is {equal} again", found=text, fix="each setting once")
        settings[",".join(f"{key}={_written(changes[key])}" for key in KEYS if key in changes)] = changed
    return settings


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def measure_price(
    plan: PricePlan, folder: Path, load: Callable[[GenerationSettings], HybridModel], repeats: int
) -> dict[str, Any]:
    """Evaluate every setting in `folder`, or what is missing there, and measure its seconds `repeats` times.

    `load` gives the model of a setting; one of another precision may leave the memory for it.
    Returns n_prompts, the words expected in the exact images, and of each setting its seconds, peak memory, scores, and
    differences from exact with 95 % intervals, all together and by split.
    """
    plans, suite = plan.plans(), suites.load(plan.base.suite)
    # 1. Evaluate each on each split; what is there stays.
    runs = {_run(*key): one for key, one in plans.items()}
    check_all(runs)
    every = evaluate_all(runs, folder, load)
    scores: dict[str, dict[str, list[Score]]] = {name: {} for name in plan.settings}
    for name, split in plans:
        for score in every[_run(name, split)]:
            scores[name].setdefault(score.split, []).append(score)
    # 2. Measure one image of each in turns, so that whatever else the machine does meets all of one precision.
    first, *_ = suites.prompts(suite, plan.splits[0], plan.base.limit, plan.base.data)
    latency = _latencies(plan, first, load, repeats)
    # 3. Pair each with exact.
    exact = _all(scores[EXACT_SETTING])
    metrics = [metric for metric in suite.metrics if stats.estimate(exact, metric).value is not None]
    rows = [
        {
            "setting": name,
            **{key: getattr(settings, key) for key in KEYS},
            **latency[name],
            **_scores(exact, _all(scores[name]), metrics),
            "splits": {
                split: _scores(scores[EXACT_SETTING][split], of_split, metrics)
                for split, of_split in scores[name].items()
            },
        }
        for name, settings in plan.settings.items()
    ]
    words = sum(len(text.split()) for score in exact if score.error is None for text in score.expected)
    return {"n_prompts": len({score.prompt_id for score in exact}), "words": words, "settings": rows}


def _run(name: str, split: str | None) -> str:
    return f"{split or 'all'}/{name}"


def _all(by_split: Mapping[str, Sequence[Score]]) -> list[Score]:
    return [score for scores in by_split.values() for score in scores]


def _scores(exact: Sequence[Score], scores: Sequence[Score], metrics: Sequence[str]) -> dict[str, Any]:
    """Pool every metric, and pair it with exact."""
    scored = [score for score in scores if score.error is None]
    return {
        "n_scored": len(scored),
        "n_total": len(scores),
        "scores": {metric: stats.estimate(scored, metric)._asdict() for metric in metrics},
        "differences": {metric: stats.paired_difference(exact, scores, metric)._asdict() for metric in metrics},
    }


def _latencies(
    plan: PricePlan, prompt: Prompt, load: Callable[[GenerationSettings], HybridModel], repeats: int
) -> dict[str, dict[str, Any]]:
    """Return the median seconds of one image of each setting, its denoising, passes and peak memory (of a GPU only)."""
    timed = Prompt("price", PROMPT, size=prompt.size)
    requests = {name: settings.request(timed, 0) for name, settings in plan.settings.items()}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in requests}
    peaks: dict[str, float] = dict.fromkeys(requests, 0.0)
    for precision in dict.fromkeys(settings.precision for settings in plan.settings.values()):
        names = [name for name, settings in plan.settings.items() if settings.precision == precision]
        hybrid = load(plan.settings[names[0]])
        measure_latency(hybrid, requests[names[0]])  # which compiles
        for name in names * repeats:
            reset_peak_memory(hybrid.device)
            seconds[name].append(measure_latency(hybrid, requests[name]))
            peaks[name] = max(peaks[name], peak_memory_gib(hybrid.device))
    on_gpu = hybrid.device.type == "cuda"
    return {
        name: {
            "passes": decoder_passes(request),
            "seconds": {stage: statistics.median(run[stage] for run in seconds[name]) for stage in seconds[name][0]},
            "peak_memory_gib": peaks[name] if on_gpu else None,
        }
        for name, request in requests.items()
    }
