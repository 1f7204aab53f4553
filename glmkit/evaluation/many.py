"""Evaluate one suite under several settings, each in a folder of its own; what no setting changes is computed once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from glmkit.distributed.process_group import ProcessGroup
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.plan import EvaluationPlan, GenerationSettings
from glmkit.generation.loading import load_model
from glmkit.generation.options import InferenceOptions
from glmkit.models.hybrid import HybridModel
from glmkit.records import Score, read_records

PRIOR_TOKENS = "prior_tokens"  # a folder: evaluations of the same AR model, prompts and seeds share what is in it


class ModelOfSettings:
    """Loads the model of an evaluation; one with the same adapters and precision as the one before stays."""

    def __init__(self, device: str, options: InferenceOptions) -> None:
        self.device, self.options = device, options
        self._loaded: HybridModel | None = None
        self._settings: tuple[object, ...] = ()

    def __call__(self, settings: GenerationSettings) -> HybridModel:
        """Return the model; its components are read when they are needed, none where all images are there."""
        asked = (settings.model, settings.dtype, settings.adapters, settings.precision)
        if self._loaded is None or self._settings != asked:
            self._loaded = None  # its memory is needed for the next one
            self._loaded = load_model(
                settings.model,
                self.device,
                settings.dtype,
                settings.adapters,
                self.options,
                precision=settings.precision,
            )
            self._settings = asked
        return self._loaded


def check_all(plans: Mapping[str, EvaluationPlan]) -> None:
    """Raise UserError for a judge, or a model that can follow no prompt, before hours of the first plan."""
    for plan in plans.values():
        suite = suites.load(plan.suite)
        plan.check_judge(suite)
        plan.check_prompts(suite, suites.prompts(suite, plan.split, plan.limit, plan.data))


def evaluate_all(
    plans: Mapping[str, EvaluationPlan],
    folder: Path,
    load: Callable[[GenerationSettings], HybridModel],
    options: InferenceOptions | None = None,
) -> dict[str, tuple[Score, ...]]:
    """Evaluate each plan in `folder`/its name, or what is missing there; returns the scores by name, in their order.

    Every plan has a model of ours, which `load` gives.
    """
    options = replace(options or InferenceOptions(), prior_tokens=folder / PRIOR_TOKENS)
    scores = {}
    for number, (name, plan) in enumerate(plans.items(), start=1):
        assert plan.generation is not None
        if ProcessGroup.from_environment().is_main:
            print(f"{number} of {len(plans)}: {plan.name}", file=sys.stderr)
        hybrid = load(plan.generation)
        evaluate(plan, folder / name, str(hybrid.device), options, hybrid)
        scores[name] = read_records(folder / name / "scores.jsonl", Score)
    return scores
