"""Before and after: which models are evaluated, and where."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from glmkit.config import Eval, Recipe
from glmkit.errors import UserError
from glmkit.evaluation import before_after
from glmkit.evaluation.plan import EvaluationPlan


def recipe(model: Path, output: Path, **changes: Any) -> Recipe:
    stage = {"steps": 1, "global_batch_size": 1, "learning_rate": 1.0}
    values = {
        "model": str(model),
        "output": str(output),
        "data": {"train": "a", "validation": "b"},
        "eval": {"limit": 3},
        "decoder": {**stage, "lora": {"targets": ["to_q"]}},
    }
    return Recipe.model_validate({**values, **changes})


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EvaluationPlan, Path]]:
    seen: list[tuple[EvaluationPlan, Path]] = []

    def record(plan: EvaluationPlan, folder: Path, _: str) -> None:
        seen.append((plan, folder))

    monkeypatch.setattr(before_after, "evaluate", record)
    return seen


def test_an_adapter(tiny_model: Path, tmp_path: Path, plans: list[tuple[EvaluationPlan, Path]]) -> None:
    """The same prompts and settings; only the adapter differs."""
    (tmp_path / "adapter").mkdir()
    of = recipe(tiny_model, tmp_path)
    assert of.eval
    before_after.evaluate_before_after(of, of.eval, "cpu")
    (before, first), (after, second) = plans
    assert (first, second) == (tmp_path / "eval" / "before", tmp_path / "eval" / "after")
    assert before.generation
    assert after.generation
    assert before.generation.adapters == ()
    assert after.generation.adapters == (str(tmp_path / "adapter"),)
    assert before.generation.model == after.generation.model == str(tiny_model)
    assert (
        (before.suite, before.limit, before.clip) == (after.suite, after.limit, after.clip) == ("text-render", 3, None)
    )


def test_whole_parts(tiny_model: Path, tmp_path: Path, plans: list[tuple[EvaluationPlan, Path]]) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")  # as the run leaves it
    of = recipe(
        tiny_model,
        tmp_path,
        eval={"clip": True},
        decoder={"steps": 1, "global_batch_size": 1, "learning_rate": 1.0},
    )
    assert of.eval
    before_after.evaluate_before_after(of, of.eval, "cpu")
    assert [plan.generation.model for plan, _ in plans if plan.generation] == [str(tiny_model), str(tmp_path / "model")]
    assert all(plan.clip and not plan.generation.adapters for plan, _ in plans if plan.generation)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="did you mean 'text-render'"):
        before_after.check(Eval(suite="text-rendr"))
