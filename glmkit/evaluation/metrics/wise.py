"""The totals of WISE (Niu et al. 2025, arXiv 2503.07265), verified version, as `calculate_verified.py` computes them.

An image counts a row CATEGORY: 1 when the judge accepts it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from glmkit.evaluation.metrics.chains import Array, Chain, Step, pool
from glmkit.evaluation.metrics.questions import UnreadableAnswerError

# Category -> the first of its prompt ids, and its weight in the overall score; ids end at 1,000.
CATEGORIES: Mapping[str, tuple[int, float]] = {
    "culture": (1, 0.4),
    "time": (401, 0.12),
    "space": (521, 0.12),
    "biology": (641, 0.12),
    "physics": (761, 0.12),
    "chemistry": (881, 0.12),
}
_LABELLED = re.compile(r"\*{0,2}Score\*{0,2}\s*:?\s*([01])\b", re.IGNORECASE)
_ALONE = re.compile(r"^\s*([01])\s*$", re.MULTILINE)


def _weighted(values: Array) -> Array:
    total: Array = (values * np.array([weight for _, weight in CATEGORIES.values()])).sum(axis=-1)
    return total


CHAINS: Mapping[str, Chain] = {
    "wise": Chain(tuple(CATEGORIES), (Step(pool, ("group",)), Step(_weighted)), is_everywhere=False),
    **{f"wise_{name}": Chain((name,), (Step(pool),), is_everywhere=False) for name in CATEGORIES},
}


def category(prompt_id: int) -> str:
    """Name the category of a prompt, 1 to 1,000."""
    return [name for name, (first, _) in CATEGORIES.items() if first <= prompt_id][-1]


def read_score(answer: str) -> int:
    """Read the first score that is labelled, or the only line that is 0 or 1; UnreadableAnswerError without one."""
    if match := _LABELLED.search(answer):
        return int(match[1])
    alone = _ALONE.findall(answer)
    if len(alone) != 1:
        raise UnreadableAnswerError(f"no score of 0 or 1: {answer[:120]!r}")
    return int(alone[0])
