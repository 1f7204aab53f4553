"""The orders of the gallery."""

from __future__ import annotations

from glmkit.records import Score
from glmkit.reporting.ranking import change, prompt_values, ranks

PROMPTS = {"a": "Sale", "b": "jazz", "c": "Open", "d": "Bread"}
BEFORE = {"a": [0.5, 0.1], "b": [0.5, 0.2], "c": [1.0, 1.0]}
AFTER = {"a": [0.7, 0.1], "b": [0.4, 0.2], "c": [0.5, 0.0], "d": [1.0, 1.0]}


def in_order(name: str) -> list[str]:
    places = ranks(PROMPTS, [BEFORE, AFTER], failed={"d"})
    return sorted(PROMPTS, key=lambda prompt_id: places[prompt_id][name])


def test_orders() -> None:
    assert in_order("given") == ["a", "b", "c", "d"]
    assert in_order("alphabet") == ["d", "b", "c", "a"]
    assert in_order("worst") == ["d", "b", "c", "a"]  # failed first; then 0.4; then (0.5, 0.0) before (0.5, 0.1)
    assert in_order("change") == ["c", "a", "b", "d"]
    assert in_order("better") == ["a", "b", "c", "d"]  # d was scored by one run only: last in both
    assert in_order("worse") == ["c", "b", "a", "d"]
    assert change("d", [BEFORE, AFTER]) is None
    places = ranks({"e": "Zoo", **PROMPTS}, [BEFORE, AFTER], failed={"d", "e"})
    assert sorted(places, key=lambda prompt_id: places[prompt_id]["worst"]) == ["d", "b", "c", "a", "e"]  # e: no score


def test_values_are_means_of_scored_images_with_higher_better() -> None:
    common = {"prompt_id": "a", "split": "s", "language": "en", "expected": ("x",)}
    scores = [
        Score(id="a_0", seed=0, counts={"ned": (1, 2), "cer": (1, 4)}, **common),
        Score(id="a_1", seed=1, counts={"ned": (2, 2), "cer": (3, 4)}, **common),
        Score(id="a_2", seed=2, error="no image", **common),
    ]
    assert prompt_values(scores, {"ned": 1, "cer": -1}) == {"a": [0.75, -0.5]}


def test_the_difference_between_two_of_three_runs() -> None:
    third = {"a": [0.5, 0.1], "b": [1.0, 0.2], "c": [0.9, 1.0]}
    places = ranks({name: PROMPTS[name] for name in "abc"}, [BEFORE, AFTER, third], failed=set())
    orders = {order: sorted("abc", key=lambda prompt_id: places[prompt_id][order]) for order in places["a"]}
    assert {name: order for name, order in orders.items() if name.startswith("change-")} == {
        "change-0-1": ["c", "a", "b"],
        "change-0-2": ["b", "c", "a"],
        "change-1-2": ["b", "c", "a"],
    }
    assert not any(name.startswith("change-") for name in ranks(PROMPTS, [BEFORE, AFTER], failed={"d"})["a"])
