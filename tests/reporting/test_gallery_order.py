"""The orders of the gallery."""

from __future__ import annotations

from typing import Any

from glmkit.records import Score
from glmkit.reporting.gallery_order import choose_shown, metric_changes, positions, prompt_means

PROMPTS = {"a": "Sale", "b": "jazz", "c": "Open", "d": "Bread"}
BEFORE = {"a": [0.5, 0.1], "b": [0.5, 0.2], "c": [1.0, 1.0]}
AFTER = {"a": [0.7, 0.1], "b": [0.4, 0.2], "c": [0.5, 0.0], "d": [1.0, 1.0]}


def in_order(name: str) -> list[str]:
    by_prompt = positions(PROMPTS, [BEFORE, AFTER], failed={"d"})
    return sorted(PROMPTS, key=lambda prompt_id: by_prompt[prompt_id][name])


def test_orders() -> None:
    assert in_order("suite") == ["a", "b", "c", "d"]
    assert in_order("alphabetical") == ["d", "b", "c", "a"]
    assert in_order("worst") == ["d", "b", "c", "a"]  # failed first; then 0.4; then (0.5, 0.0) before (0.5, 0.1)
    assert in_order("difference") == ["c", "a", "b", "d"]
    assert in_order("improved") == ["a", "b", "c", "d"]  # d was scored by one run only: last in both
    assert in_order("worsened") == ["c", "b", "a", "d"]
    assert metric_changes("d", [BEFORE, AFTER]) is None
    by_prompt = positions({"e": "Zoo", **PROMPTS}, [BEFORE, AFTER], failed={"d", "e"})
    assert sorted(by_prompt, key=lambda prompt_id: by_prompt[prompt_id]["worst"]) == [
        "d",
        "b",
        "c",
        "a",
        "e",
    ]  # e: no score


def test_values_are_means_of_scored_images_with_higher_better() -> None:
    common: dict[str, Any] = {"prompt_id": "a", "split": "s", "language": "en", "expected": ("x",)}
    scores = [
        Score(id="a_0", seed=0, counts={"ned": (1, 2), "cer": (1, 4)}, **common),
        Score(id="a_1", seed=1, counts={"ned": (2, 2), "cer": (3, 4)}, **common),
        Score(id="a_2", seed=2, error="no image", **common),
    ]
    assert prompt_means(scores, {"ned": 1, "cer": -1}) == {"a": [0.75, -0.5]}


def test_the_difference_between_two_of_three_runs() -> None:
    third = {"a": [0.5, 0.1], "b": [1.0, 0.2], "c": [0.9, 1.0]}
    by_prompt = positions({name: PROMPTS[name] for name in "abc"}, [BEFORE, AFTER, third], failed=set())
    orders = {order: sorted("abc", key=lambda prompt_id: by_prompt[prompt_id][order]) for order in by_prompt["a"]}
    assert {name: order for name, order in orders.items() if name.startswith("difference-")} == {
        "difference-0-1": ["c", "a", "b"],
        "difference-0-2": ["b", "c", "a"],
        "difference-1-2": ["b", "c", "a"],
    }
    assert not any(name.startswith("difference-") for name in positions(PROMPTS, [BEFORE, AFTER], failed={"d"})["a"])


def test_a_page_of_many_prompts_shows_extremes_and_an_even_spread() -> None:
    prompts = {f"p{number}": f"{number * 7919 % 10_000:04d}" for number in range(10_000)}
    means = {one: [float(text)] for one, text in prompts.items()}
    shown = choose_shown(prompts, [means], {"p77"}, 240)
    assert len(shown) == len(set(shown)) == 240
    numbers = [int(one[1:]) for one in shown]
    assert numbers == sorted(numbers)
    by_value = sorted(prompts, key=lambda one: means[one])
    assert {"p77", "p0", "p9999", *by_value[:9], *by_value[-9:]} <= set(shown)
    assert min(sum(start <= number < start + 1_000 for number in numbers) for start in range(0, 10_000, 1_000)) >= 12
    assert choose_shown(prompts, [means], set(), 10_000) == tuple(prompts)
