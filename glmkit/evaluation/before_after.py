"""What training did to images: the same prompts and seeds scored with the base model and with what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.config import Eval, Recipe
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.metrics import clip
from glmkit.evaluation.plan import EvaluationPlan, GenerationSettings

if TYPE_CHECKING:
    from glmkit.records import Summary


def check(settings: Eval) -> None:
    """Raise UserError for a suite that is misspelt or not here, before hours of training."""
    suites.load(settings.suite).files(None)


def evaluate_before_after(recipe: Recipe, settings: Eval, device: str) -> tuple[Summary, Summary]:
    """Evaluate into OUTPUT/eval/before and OUTPUT/eval/after; what is there already stays."""
    output = Path(recipe.output)
    adapters = (str(output / "adapter"),) if (output / "adapter").is_dir() else ()
    trained = recipe.model if recipe.is_lora_only else str(output / "model")
    before, after = (
        evaluate(_plan(settings, model, added, device, when), output / "eval" / when, device)
        for when, model, added in (("before", recipe.model, ()), ("after", trained, adapters))
    )
    return before, after


def _plan(settings: Eval, model: str, adapters: tuple[str, ...], device: str, name: str) -> EvaluationPlan:
    generation = GenerationSettings.with_defaults(model, device, adapters=adapters)
    return EvaluationPlan(
        suite=settings.suite,
        limit=settings.limit,
        generation=generation,
        count=1,
        clip=clip.DEFAULT if settings.clip else None,
        name=name,
    )


def describe(before: Summary, after: Summary) -> str:
    """Give one line per score: before -> after."""
    scores = ((name, before.scores[name]["value"], after.scores[name]["value"]) for name in before.scores)
    return "\n".join(f"{name}: {old:.3f} -> {new:.3f}" for name, old, new in scores if None not in (old, new))
