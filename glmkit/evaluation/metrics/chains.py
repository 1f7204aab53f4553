"""How counts become the score of a set of images: a chain of declared steps, each of which reduces rows to fewer.

A row is one count of one image, (numerator, denominator), with its prompt, group and question; a `Score` names it
GROUP/QUESTION, or GROUP where an image has one count of its kind. What was not measured has no row.

Steps that keep prompts apart reduce each prompt by itself. The first step that does not is a sum over prompts, so that
a resample of prompts is a product with a matrix, and the steps behind it are formulas of what was summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glmkit.records import Score

Array = NDArray[np.float64]
Level = Literal["prompt", "image", "group", "question"]


class Row(NamedTuple):
    """Hold one count of one image, or of several that were reduced; levels that it was reduced over are ""."""

    prompt: str
    image: str
    group: str
    question: str
    numerator: float
    denominator: float


def pool(_values: Array) -> Array:
    """Stand for sum of numerators / sum of denominators, the micro average, which `Step` forms by itself."""
    raise NotImplementedError


def mean(values: Array) -> Array:
    """Average ... x K values over the last axis; one that is not a number is missing, and does not count."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        average: Array = np.where(known, values, 0.0).sum(axis=-1) / known.sum(axis=-1)
    return average


def mean_of_all(values: Array) -> Array:
    """Average ... x K values over the last axis; not a number where one of them is missing."""
    average: Array = values.mean(axis=-1)
    return average


def geometric_mean(values: Array) -> Array:
    """Calculate the geometric mean of ... x K values over the last axis."""
    with np.errstate(divide="ignore"):
        root: Array = np.exp(np.log(values).mean(axis=-1))
    return root


@dataclass(frozen=True)
class Step:
    """Reduce the rows that agree in the levels `by` to one.

    `how` is `pool`, `mean`, or any formula of ... x K values over the last axis, in the order of their groups. Groups
    are first renamed by `into`. The result is multiplied by `scale`, then rounded to `digits` decimals.
    """

    how: Callable[[Array], Array]
    by: tuple[Level, ...] = ()
    into: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    digits: int | None = None

    def group(self, name: str) -> str:
        """Name the group that a row of this group is reduced to."""
        return self.into.get(name, name) if "group" in self.by else ""

    def finish(self, values: Array) -> Array:
        """Scale and round values; the value of a set is rounded as Python prints it, resamples by NumPy."""
        values = values * self.scale if self.scale != 1.0 else values
        if self.digits is None:
            return values
        if values.ndim > 1:
            return values.round(self.digits)
        return np.array([round(float(value), self.digits) for value in values])


@dataclass(frozen=True)
class Chain:
    """Declare the score of a set: the `groups` whose rows count, and the steps.

    `is_everywhere`: each scored image has a row of every group, and a file without it is damaged. `last_image`: only
    rows of the last image of each prompt count.
    """

    groups: tuple[str, ...]
    steps: tuple[Step, ...]
    is_everywhere: bool = True
    last_image: bool = False

    def __post_init__(self) -> None:
        """Find the first step that sums over prompts; it must be one that a sum can express."""
        assert self.over_prompts.how in (pool, mean)

    @property
    def over_prompts(self) -> Step:
        """Return the first step that does not keep prompts apart."""
        return next(step for step in self.steps if "prompt" not in step.by)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the groups that stay apart in the sums over prompts, in the order of `groups`."""
        return tuple(dict.fromkeys(self.over_prompts.group(group) for group in self.groups))

    def rows(self, scores: Iterable[Score]) -> list[Row]:
        """List the rows of the scored images that count."""
        wanted = set(self.groups)
        rows = []
        for score in scores:
            for name, (numerator, denominator) in score.counts.items() if score.error is None else ():
                group, _, question = name.partition("/")
                if group in wanted:
                    rows.append(Row(score.prompt_id, score.id, group, question, numerator, denominator))
        if self.last_image:
            last = {row.prompt: row.image for row in rows}
            rows = [row for row in rows if row.image == last[row.prompt]]
        return rows

    def passed_over(self, scores: Iterable[Score]) -> tuple[tuple[str, ...], int]:
        """Name the groups without a row that a mean of named groups (`Step.into`) leaves out, and count those groups.

        Nothing for a chain that takes no such mean.
        """
        into = next((step.into for step in self.steps if step.into), {})
        if self.steps[-1].how is not mean or not into:
            return (), 0
        present = {into[row.group] for row in self.rows(scores)}
        names = tuple(dict.fromkeys(into.values()))
        return tuple(name for name in names if name not in present), len(names)

    def prompt_sums(self, scores: Iterable[Score]) -> dict[str, dict[str, tuple[float, float]]]:
        """Map each prompt with a row, in order of first appearance, to its sums (numerator, denominator) per column."""
        rows = self.rows(scores)
        for step in self.steps[: self.steps.index(self.over_prompts)]:
            rows = _reduce(rows, step, self.groups)
        sums: dict[str, dict[str, tuple[float, float]]] = {}
        for row in rows:
            numerator, denominator = row.numerator, row.denominator
            if self.over_prompts.how is mean:
                numerator, denominator = (numerator / denominator, 1.0) if denominator else (0.0, 0.0)
            of_prompt = sums.setdefault(row.prompt, {})
            column = self.over_prompts.group(row.group)
            before = of_prompt.get(column, (0.0, 0.0))
            of_prompt[column] = (before[0] + numerator, before[1] + denominator)
        return sums

    def value(self, totals: Array) -> Array:
        """Turn ... x 2 K totals (numerator and denominator of each column) into the score of each."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values = totals[..., 0::2] / totals[..., 1::2]
        values[~np.isfinite(values)] = np.nan
        index = self.steps.index(self.over_prompts)
        values, groups = self.steps[index].finish(values), self.columns
        for step in self.steps[index + 1 :]:
            new = [step.group(group) for group in groups]
            groups = tuple(dict.fromkeys(new))
            members = [[number for number, name in enumerate(new) if name == group] for group in groups]
            values = step.finish(np.stack([step.how(values[..., columns]) for columns in members], axis=-1))
        score: Array = values[..., 0]
        return score


def micro(metric: str) -> Chain:
    """Make the chain of a metric that images count under its own name: sum / sum."""
    return Chain((metric,), (Step(pool),))


def _reduce(rows: Sequence[Row], step: Step, groups: Sequence[str]) -> list[Row]:
    """Reduce rows by one step that keeps prompts apart; the order of first appearance stays."""
    order = {group: number for number, group in enumerate(groups)}
    reduced: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (
            row.prompt,
            row.image if "image" in step.by else "",
            step.group(row.group),
            row.question if "question" in step.by else "",
        )
        reduced.setdefault(key, []).append(row)
    result = []
    for key, members in reduced.items():
        members.sort(key=lambda row: order.get(row.group, 0))
        if step.how is pool:
            counts = sum(row.numerator for row in members), sum(row.denominator for row in members)
        else:
            values = np.array([row.numerator / row.denominator if row.denominator else np.nan for row in members])
            value = float(step.finish(np.array([step.how(values)]))[0])
            counts = (value, 1.0) if np.isfinite(value) else (0.0, 0.0)
        result.append(Row(*key, *counts))
    return result
