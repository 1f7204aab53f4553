"""Which prompts stand at the top of a page, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from reporting.conftest import MakeRun

from glmkit.records import Prompt
from glmkit.reporting.compare import compare
from glmkit.reporting.gallery import gallery
from glmkit.reporting.highlights import Highlights, choose_changes, choose_values, highlights
from glmkit.reporting.image_store import DETAILS, ImageStore
from glmkit.reporting.load import load_runs


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        (
            [0.1, 0.5, -0.4, 0.0, 0.9, -0.1, -0.2, 0.05],  # median 0.025
            {4: "largest gain", 1: "largest gain", 2: "largest loss", 6: "largest loss", 3: "typical", 7: "typical"},
        ),
        ([0.0, 0.3, 0.0], {1: "largest gain", 0: "typical", 2: "typical"}),
        ([], {}),
    ],
)
def test_gains_losses_and_the_median(changes: list[float], chosen: dict[int, str]) -> None:
    assert choose_changes({f"p{n}": [change] for n, change in enumerate(changes)}) == {
        f"p{n}": reason for n, reason in chosen.items()
    }


def test_later_metrics_and_then_the_order_decide_between_equal_prompts() -> None:
    changes = {"a": [1.0, 0.0], "b": [1.0, 0.5], "c": [1.0, 0.0]}
    assert [one for one, reason in choose_changes(changes).items() if reason == "largest gain"] == ["b", "a"]


def test_no_prompt_of_a_single_run_is_chosen_twice() -> None:
    assert choose_values({"a": [0.5], "b": [0.5], "c": [0.1]}) == {"a": "best", "b": "best", "c": "worst"}
    assert list(choose_values({f"p{n}": [n / 9] for n in range(10)})) == ["p9", "p8", "p0", "p1", "p4", "p5"]


def highlights_of(*folders: Path) -> Highlights:
    runs = load_runs(folders)
    comparison = compare(runs)
    return highlights(gallery(runs, comparison, ImageStore(DETAILS[0])), comparison)


def test_the_pair_of_the_verdict_is_shown(make_run: MakeRun, prompts: list[Prompt]) -> None:
    """Of three runs the best stands beside the second best; a prompt that one of them failed is passed over."""
    right = [(prompt, prompt.texts) for prompt in prompts]
    wrong = [(prompt, ["?"]) for prompt in prompts]
    half = [*wrong[:3], (prompts[3], RuntimeError("no memory")), *right[4:]]
    found = highlights_of(make_run("wrong", wrong), make_run("right", right), make_run("half", half))
    assert {tuple(image.run for image in item.images) for item in found.items} == {("nano (half)", "nano (right)")}
    assert [item.card.id for item in found.items if item.reason == "largest gain"] == ["p00", "p01"]
    assert "p03" not in [item.card.id for item in found.items]
    assert "from nano (half) to nano (right)" in found.rule


def test_a_change_keeps_its_sign_where_lower_is_better(make_run: MakeRun, prompts: list[Prompt]) -> None:
    right = [(prompt, prompt.texts) for prompt in prompts]
    runs = load_runs([make_run("a", [(prompt, ["?"]) for prompt in prompts]), make_run("b", right)])
    comparison = compare(runs)
    lower = [metric for metric in comparison.metrics if metric.name == "cer"]
    found = highlights(gallery(runs, comparison, ImageStore(DETAILS[0])), replace(comparison, metrics=tuple(lower)))
    assert all(item.value < 0 for item in found.items if item.reason == "largest gain")
    assert found.items[0].reason == "largest gain"
