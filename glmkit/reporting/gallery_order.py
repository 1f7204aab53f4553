"""The orders in which a gallery can be read: worst first, largest difference first, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

from glmkit.evaluation.stats import image_value
from glmkit.records import Score

PromptMeans = Mapping[str, Sequence[float]]  # prompt id -> one number per metric, higher is better
WORST = float("-inf")


def prompt_means(scores: Sequence[Score], signs: Mapping[str, int]) -> PromptMeans:
    """Average each metric over the scored images of each prompt, times its sign (-1: lower is better)."""
    scored: dict[str, list[Score]] = {}
    for score in scores:
        if score.error is None:
            scored.setdefault(score.prompt_id, []).append(score)
    return {
        prompt_id: [
            sign * fmean(image_value(score, metric) or 0.0 for score in of_prompt) for metric, sign in signs.items()
        ]
        for prompt_id, of_prompt in scored.items()
    }


def metric_changes(prompt_id: str, runs: Sequence[PromptMeans]) -> list[float] | None:
    """Subtract the first run from the last on one prompt; None when one of them did not score it."""
    if prompt_id not in runs[0] or prompt_id not in runs[-1]:
        return None
    return [last - first for first, last in zip(runs[0][prompt_id], runs[-1][prompt_id], strict=True)]


def choose_shown(
    prompts: Mapping[str, str], runs: Sequence[PromptMeans], failed: set[str], limit: int
) -> tuple[str, ...]:
    """Choose the prompts (id -> text) that a page shows, at most `limit`, in the order of the suite.

    Up to half of them are the first and the last of every order, the others are spread evenly over the suite.
    """
    if len(prompts) <= limit:
        return tuple(prompts)
    by_name = orders(prompts, runs, failed)
    ends = limit // (4 * len(by_name))
    chosen = {one for order in by_name.values() for one in (*order[:ends], *order[len(order) - ends :])}
    others, wanted = [one for one in prompts if one not in chosen], limit - len(chosen)
    chosen.update(others[number * len(others) // wanted] for number in range(wanted))
    return tuple(one for one in prompts if one in chosen)


def positions(prompts: Mapping[str, str], runs: Sequence[PromptMeans], failed: set[str]) -> dict[str, dict[str, int]]:
    """Return the position of each prompt (id -> text) in each of the `orders`."""
    by_prompt: dict[str, dict[str, int]] = {prompt_id: {} for prompt_id in prompts}
    for name, order in orders(prompts, runs, failed).items():
        for position, prompt_id in enumerate(order):
            by_prompt[prompt_id][name] = position
    return by_prompt


def orders(prompts: Mapping[str, str], runs: Sequence[PromptMeans], failed: set[str]) -> dict[str, list[str]]:
    """Sort the prompts (id -> text) in every order of the gallery, by its name; ties keep the order of the suite.

    `worst`: by the lowest value of any run, first the prompts with a `failed` image, last those that no run scored;
    `difference`: by the largest difference between runs; `difference-A-B`: by that between the runs of these numbers
    (of three or more); `improved` and `worsened`: by last run minus first run; `alphabetical`; `suite`. The metrics
    decide one after another, and prompts that cannot be compared come last.
    """

    def lowest(prompt_id: str) -> tuple[bool, list[float]]:
        scored = [list(run[prompt_id]) for run in runs if prompt_id in run]
        return not scored, [WORST] if prompt_id in failed else min(scored)

    def by_difference(compared: Sequence[PromptMeans]) -> list[str]:
        def negative_range(prompt_id: str) -> list[float]:
            metrics = zip(*(run[prompt_id] for run in compared if prompt_id in run), strict=True)
            return [min(values) - max(values) for values in metrics] or [0.0]

        return sorted(prompts, key=negative_range)

    def by_change(prompt_id: str, sign: int) -> tuple[bool, list[float]]:
        changes = metric_changes(prompt_id, runs)
        return changes is None, [sign * change for change in changes or []]

    by_name = {
        "worst": sorted(prompts, key=lowest),
        "difference": by_difference(runs),
        "improved": sorted(prompts, key=lambda prompt_id: by_change(prompt_id, -1)),
        "worsened": sorted(prompts, key=lambda prompt_id: by_change(prompt_id, 1)),
        "alphabetical": sorted(prompts, key=lambda prompt_id: prompts[prompt_id].casefold()),
        "suite": list(prompts),
    }
    for a, b in combinations(range(len(runs)), 2) if len(runs) > 2 else ():
        by_name[f"difference-{a}-{b}"] = by_difference([runs[a], runs[b]])
    return by_name
