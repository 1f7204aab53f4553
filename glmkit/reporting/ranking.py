"""The orders in which a gallery can be read: worst first, largest change first, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

from glmkit.records import Score

Values = Mapping[str, Sequence[float]]  # prompt id -> one number a metric, higher is better
WORST = float("-inf")


def prompt_values(scores: Sequence[Score], signs: Mapping[str, int]) -> Values:
    """The mean of each metric over the scored images of each prompt, times its sign (-1: lower is better)."""
    rows: dict[str, list[Score]] = {}
    for score in scores:
        if score.error is None:
            rows.setdefault(score.prompt_id, []).append(score)
    return {
        prompt_id: [sign * fmean(row.value(metric) or 0.0 for row in group) for metric, sign in signs.items()]
        for prompt_id, group in rows.items()
    }


def change(prompt_id: str, runs: Sequence[Values]) -> list[float] | None:
    """Last run minus first run on one prompt; None when one of them did not score it."""
    if prompt_id not in runs[0] or prompt_id not in runs[-1]:
        return None
    return [after - before for before, after in zip(runs[0][prompt_id], runs[-1][prompt_id], strict=True)]


def ranks(prompts: Mapping[str, str], runs: Sequence[Values], failed: set[str]) -> dict[str, dict[str, int]]:
    """The place of each prompt (id -> text) in each order; ties keep the order of the suite.

    `worst`: by the lowest value of any run, first the prompts with a `failed` image, last those that no run scored;
    `change`: by the largest distance between runs; `change-A-B`: by that between the runs of these numbers (of three or
    more); `better` and `worse`: by last run minus first run. The metrics decide one after another, and prompts that
    cannot be compared come last.
    """

    def lowest(prompt_id: str) -> tuple[bool, list[float]]:
        scored = [list(run[prompt_id]) for run in runs if prompt_id in run]
        return not scored, [WORST] if prompt_id in failed else min(scored)

    def by_spread(among: Sequence[Values]) -> list[str]:
        def spread(prompt_id: str) -> list[float]:
            columns = zip(*(run[prompt_id] for run in among if prompt_id in run), strict=True)
            return [min(column) - max(column) for column in columns] or [0.0]

        return sorted(prompts, key=spread)

    def gain(prompt_id: str, sign: int) -> tuple[bool, list[float]]:
        values = change(prompt_id, runs)
        return (values is None, [sign * value for value in values or []])

    orders = {
        "worst": sorted(prompts, key=lowest),
        "change": by_spread(runs),
        "better": sorted(prompts, key=lambda prompt_id: gain(prompt_id, -1)),
        "worse": sorted(prompts, key=lambda prompt_id: gain(prompt_id, 1)),
        "alphabet": sorted(prompts, key=lambda prompt_id: prompts[prompt_id].casefold()),
        "given": list(prompts),
    }
    for a, b in combinations(range(len(runs)), 2) if len(runs) > 2 else ():
        orders[f"change-{a}-{b}"] = by_spread([runs[a], runs[b]])
    places: dict[str, dict[str, int]] = {prompt_id: {} for prompt_id in prompts}
    for name, order in orders.items():
        for place, prompt_id in enumerate(order):
            places[prompt_id][name] = place
    return places
