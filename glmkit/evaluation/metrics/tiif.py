"""The totals and text scores of TIIF-Bench (Wei et al. 2025, arXiv 2506.02161), as its scripts compute them.

An image counts a row LENGTH TYPE/QUESTION for each question: 1 when the answer is the expected one. Images with text
count `gned` and `text_recall`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from glmkit.evaluation.metrics.chains import Chain, Step, mean, pool
from glmkit.extras import require

LENGTHS = ("short", "long")
_REASONING = ("numeracy", "comparison", "differentiation", "negation")
_PLACES = ("2d", "3d")
_LOOKS = ("color", "texture")
DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "attribute": ("shape+color", "color+texture", "texture+color", "shape+texture"),
    "relation": ("2d_spatial_relation", "3d_spatial_relation", "action+2d", "action+3d"),
    "reasoning": _REASONING,
    "attribute_relation": (
        *(f"action+{look}" for look in _LOOKS),
        *(f"{look}+{place}" for look in ("color", "shape", "texture") for place in _PLACES),
    ),
    "attribute_reasoning": tuple(f"{kind}+{look}" for kind in _REASONING for look in _LOOKS),
    "relation_reasoning": tuple(f"{kind}+{place}" for kind in _REASONING for place in _PLACES),
    "text": ("text",),
    "style": ("style",),
    "real_world": ("real_world",),
}
TYPES = tuple(kind for kinds in DIMENSIONS.values() for kind in kinds)
RECALLED = 0.3  # distance of a word up to which it counts as read


def _overall(length: str) -> Chain:
    """Pool the questions of each type, 4 decimals; average types, then the dimensions that have some, 4 decimals."""
    into = {f"{length} {kind}": name for name, kinds in DIMENSIONS.items() for kind in kinds}
    steps = (Step(pool, ("group",), digits=4), Step(mean, ("group",), into=into), Step(mean, digits=4))
    return Chain(tuple(into), steps, is_everywhere=False)


def _dimension(kinds: Sequence[str]) -> Chain:
    """Pool the questions of each type and length, 4 decimals, and average them."""
    groups = tuple(f"{length} {kind}" for length in LENGTHS for kind in kinds)
    return Chain(groups, (Step(pool, ("group",), digits=4), Step(mean)), is_everywhere=False)


CHAINS: Mapping[str, Chain] = {
    **{f"tiif_{length}": _overall(length) for length in LENGTHS},
    **{f"tiif_{name}": _dimension(kinds) for name, kinds in DIMENSIONS.items()},
    **{name: Chain((name,), (Step(pool),), is_everywhere=False) for name in ("gned", "text_recall")},
}


def read_words(lines: Sequence[str]) -> list[str]:
    """Split recognized lines, in lower case, at single blanks: two blanks leave an empty word, as no line does."""
    return [word for line in lines or [""] for word in line.lower().split(" ")]


def gned(expected: Sequence[str], read: Sequence[str]) -> float:
    """Calculate the distance of two lists of words, 0 to 1: the least sum of edits / length of the longer word over
    pairs, plus 1 for each word without a partner, / words of the longer list.
    """
    if not expected and not read:
        return 0.0
    require("scipy", "the text score of TIIF-Bench")
    from scipy.optimize import linear_sum_assignment

    distances = cdist(read, expected, scorer=Levenshtein.normalized_distance, dtype=np.float64)
    paired = distances[linear_sum_assignment(distances)].sum()
    return float(paired + abs(len(read) - len(expected))) / max(len(read), len(expected))


def text_recall(expected: Sequence[str], read: Sequence[str]) -> float:
    """Share the expected words of which one after another finds the first free word within `RECALLED`.

    ZeroDivisionError when nothing is expected.
    """
    free = list(read)
    hits = 0
    for word in expected:
        near = (index for index, other in enumerate(free) if Levenshtein.normalized_distance(word, other) <= RECALLED)
        if (index := next(near, None)) is not None:
            del free[index]
            hits += 1
    return hits / len(expected)
