"""Whether a run is worse than another one by more than is allowed, decided by the paired difference of one metric."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from glmkit.errors import UserError, unknown
from glmkit.evaluation import stats
from glmkit.evaluation.stats import Estimate
from glmkit.reporting import wording
from glmkit.reporting.compare import comparable_metrics, comparison_notes
from glmkit.reporting.load import load_runs

ROUNDING = 1e-9  # a drop of 0.9 - 0.88 is 0.02


@dataclass(frozen=True)
class Gate:
    """Hold how much worse `run` is than `against` by `metric`: `drop`, negative if better, with its 95 % interval.

    The drop is that of the pooled scores on the `n` prompts that both scored; one prompt has no interval. `notes` say
    what limits the comparison.
    """

    metric: str
    direction: str
    run: str
    against: str
    max_drop: float
    drop: float
    low: float | None
    high: float | None
    n: int
    notes: tuple[str, ...]

    @property
    def outcome(self) -> Literal["passed", "failed", "undecided"]:
        """Return the decision.

        "failed": the whole interval lies above `max_drop`. "passed": none of it does. "undecided": `max_drop` is inside
        it, or there is no interval; more prompts would have to decide.
        """
        if self.low is None or self.high is None:
            return "undecided"
        allowed = self.max_drop + ROUNDING
        return "failed" if self.low > allowed else "passed" if self.high <= allowed else "undecided"

    @property
    def sentence(self) -> str:
        """Say what was found, by the metric's own sign, and how it was decided."""
        sign = -1 if self.direction == "higher" else 1
        low, high = sorted(sign * end for end in (self.low, self.high) if end is not None) or (None, None)
        change = Estimate(sign * self.drop, low, high, self.n)
        reason = {
            "failed": f"worse by more than the allowed {self.max_drop:g}",
            "passed": f"not worse by more than the allowed {self.max_drop:g}",
            "undecided": f"too few prompts to say whether it is worse by more than the allowed {self.max_drop:g}",
        }[self.outcome]
        size = f"{wording.number(change.value, signed=True)} {wording.evidence(change, signed=True)}"
        return f"{wording.label(self.metric)} of {self.run} against {self.against}: {size}; {reason}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {"outcome": self.outcome, **asdict(self), "sentence": self.sentence}


def compare_with_base(run: Path, base: Path, metric: str | None = None, max_drop: float = 0.0) -> Gate:
    """Measure by `metric` how much worse the run folder `run` is than `base`; by the leading metric where it is None.

    `max_drop` is the drop that is allowed, in units of the metric. UserError for runs without that metric, without a
    prompt that both scored, or that cannot be compared.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise UserError("the allowed drop must be a number of at least 0", found=max_drop, fix="--max-drop 0.02")
    runs = load_runs([base, run])
    metrics = comparable_metrics(runs)
    name = metrics[0] if metric is None else metric
    if name not in metrics:
        raise unknown("metric", name, metrics)
    against, new = runs
    direction = against.summary.metrics[name]["direction"]
    sides = (new.scores, against.scores) if direction == "higher" else (against.scores, new.scores)
    drop, low, high, n = stats.paired_difference(*sides, name)
    if drop is None:
        fix = "evaluate again; `error` in scores.jsonl says why an image has no score"
        raise UserError(f"no prompt has a {name} in both runs", found=f"{n} prompts", fix=fix)
    notes = comparison_notes(runs, against.prompts & new.prompts)
    if 1 < n < stats.MIN_PROMPTS:
        notes.append(f"With fewer than {stats.MIN_PROMPTS} prompts the interval is too short.")
    return Gate(name, direction, new.name, against.name, max_drop, drop, low, high, n, tuple(notes))
