"""Before and after: which models are evaluated, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from glmkit.config import Recipe
from glmkit.errors import UserError
from glmkit.evaluation import before_after


def recipe(model: Path, output: Path, **changes: Any) -> Recipe:
    stage = {"steps": 1, "global_batch_size": 1, "learning_rate": 1.0}
    values = {
        "model": str(model),
        "output": str(output),
        "data": {"posters": {"count": 1}},
        "eval": {"limit": 3},
        "decoder": {**stage, "lora": {"targets": ["to_q"]}},
    }
    return Recipe.model_validate({**values, **changes})


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[before_after.Plan, Path]]:
    seen: list[tuple[before_after.Plan, Path]] = []

    def record(plan: before_after.Plan, folder: Path, _: str) -> None:
        seen.append((plan, folder))

    monkeypatch.setattr(before_after, "evaluate", record)
    return seen


def test_an_adapter(tiny_model: Path, tmp_path: Path, plans: list[tuple[before_after.Plan, Path]]) -> None:
    """The same prompts and settings; only the adapter differs."""
    (tmp_path / "adapter").mkdir()
    of = recipe(tiny_model, tmp_path)
    assert of.eval
    before_after.prove(of, of.eval, "cpu")
    (before, first), (after, second) = plans
    assert (first, second) == (tmp_path / "eval" / "before", tmp_path / "eval" / "after")
    assert before.drawing and after.drawing
    assert before.drawing.adapters == () and after.drawing.adapters == (str(tmp_path / "adapter"),)
    assert before.drawing.model == after.drawing.model == str(tiny_model)
    assert (
        (before.suite, before.limit, before.clip) == (after.suite, after.limit, after.clip) == ("text-render", 3, None)
    )


def test_whole_parts(tiny_model: Path, tmp_path: Path, plans: list[tuple[before_after.Plan, Path]]) -> None:
    of = recipe(
        tiny_model,
        tmp_path,
        save=str(tiny_model) + "/.",
        eval={"clip": True},
        decoder={"steps": 1, "global_batch_size": 1, "learning_rate": 1.0},
    )
    assert of.eval
    before_after.prove(of, of.eval, "cpu")
    assert [plan.drawing.model for plan, _ in plans if plan.drawing] == [str(tiny_model), str(tiny_model) + "/."]
    assert all(plan.clip and not plan.drawing.adapters for plan, _ in plans if plan.drawing)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'text-render'"):
        before_after.check(before_after.Eval(suite="text-rendr"))
    for changes in ({"architecture": "a.yaml"}, {"save": str(tmp_path)}):
        with pytest.raises(ValidationError, match="eval"):
            recipe(tmp_path, tmp_path / "run", **changes)
