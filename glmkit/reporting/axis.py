"""The axis of an interval plot: positions in percent of its width, so that the browser scales lines but not letters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from glmkit.evaluation.stats import Estimate

MAX_INTERVALS = 5  # between the ticks of an axis


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high` with `ticks` in between, both ends included."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def fraction(self, value: float) -> float:
        """Return where a value stands, from 0 (left) to 1 (right)."""
        return (value - self.low) / (self.high - self.low)

    def percent(self, value: float) -> str:
        """Return where a value stands, 0 % left to 100 % right."""
        return f"{100 * self.fraction(value):.2f}%"


def fit_axis(estimates: Iterable[Estimate]) -> Axis:
    """Span 0 to 1, or the lowest to the highest value where that is not enough."""
    values = [v for e in estimates for v in (e.value, e.low, e.high) if v is not None]
    return _axis(min([0.0, *values]), max([1.0, *values]))


def close_axis(estimates: Iterable[Estimate]) -> Axis:
    """Span the values and their intervals alone, so that small differences are seen."""
    values = [v for e in estimates for v in (e.value, e.low, e.high) if v is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return _axis(low, high) if high - low > 1e-9 else _axis(low - 0.5, high + 0.5)


def _axis(low: float, high: float) -> Axis:
    step = round_step((high - low) / MAX_INTERVALS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(index * step, 10) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def round_step(width: float) -> float:
    """Return the next of 1, 2, 5, 10, ... times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(width))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9))
