"""What training did to images: the same prompts and seeds scored with the base model and with what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.config import Eval, Recipe
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import ENGINE, Plan, evaluate
from glmkit.evaluation.images import Drawing
from glmkit.evaluation.metrics import clip

if TYPE_CHECKING:
    from glmkit.records import Summary


def check(settings: Eval) -> None:
    """UserError for a suite that is misspelt or not here, before hours of training."""
    suites.load(settings.suite).files(None)


def prove(recipe: Recipe, settings: Eval, device: str) -> tuple[Summary, Summary]:
    """Evaluate before and after into OUTPUT/eval/before and OUTPUT/eval/after; what is there already is kept."""
    output = Path(recipe.output)
    adapters = (str(output / "adapter"),) if (output / "adapter").is_dir() else ()
    whole = any(stage.lora is None for stage in recipe.stages.values())
    trained = (recipe.save or str(output / "model")) if whole else recipe.model
    before, after = (
        evaluate(_plan(settings, model, added, device), output / "eval" / when, device)
        for when, model, added in (("before", recipe.model, ()), ("after", trained, adapters))
    )
    return before, after


def _plan(settings: Eval, model: str, adapters: tuple[str, ...], device: str) -> Plan:
    import torch

    from glmkit.models import checkpoint
    from glmkit.models.checkpoint import defaults
    from glmkit.models.devices import dtype_for

    usual = defaults.of(checkpoint.resolve(model))
    drawing = Drawing(
        model=model,
        adapters=adapters,
        seeds=1,
        height=usual.height,
        width=usual.width,
        steps=usual.steps,
        guidance=usual.guidance,
        dtype=str(dtype_for(torch.device(device))).removeprefix("torch."),
    )
    chosen = clip.DEFAULT if settings.clip else None
    return Plan(suite=settings.suite, engine=ENGINE, limit=settings.limit, drawing=drawing, seeds=1, clip=chosen)


def describe(before: Summary, after: Summary) -> str:
    """One line a score: before -> after."""
    scores = ((name, before.scores[name]["value"], after.scores[name]["value"]) for name in before.scores)
    return "\n".join(f"{name}: {old:.3f} -> {new:.3f}" for name, old, new in scores if None not in (old, new))
