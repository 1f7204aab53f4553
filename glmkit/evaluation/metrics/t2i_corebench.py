"""The totals of T2I-CoReBench (Li et al. 2025, arXiv 2509.03516), as its `evaluate.py` computes them.

An image counts a row DIMENSION/QUESTION for each question that was answered. The mean over dimensions is that of the
benchmark's tables; its code leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from glmkit.evaluation.metrics.chains import Chain, Step, mean, mean_of_all

DIMENSIONS: Mapping[str, str] = {
    "C-MI": "multi-instance",
    "C-MA": "multi-attribute",
    "C-MR": "multi-relation",
    "C-TR": "text rendering",
    "R-LR": "logical reasoning",
    "R-BR": "behavioral reasoning",
    "R-HR": "hypothetical reasoning",
    "R-PR": "procedural reasoning",
    "R-GR": "generalization reasoning",
    "R-AR": "analogical reasoning",
    "R-CR": "commonsense reasoning",
    "R-RR": "reconstructive reasoning",
}
_OF_IMAGE = Step(mean, ("prompt", "image", "group"))


def metric(dimension: str) -> str:
    """Name the metric of a dimension."""
    return f"t2i_corebench_{dimension.replace('-', '_').lower()}"


CHAINS: Mapping[str, Chain] = {
    "t2i_corebench": Chain(
        tuple(DIMENSIONS), (_OF_IMAGE, Step(mean, ("group",)), Step(mean_of_all)), is_everywhere=False
    ),
    **{metric(name): Chain((name,), (_OF_IMAGE, Step(mean)), is_everywhere=False) for name in DIMENSIONS},
}


def says_yes(answer: str) -> bool | None:
    """Read yes where the word occurs anywhere, else no where that occurs, else nothing; only small letters count."""
    return True if re.search(r"\byes\b", answer) else False if re.search(r"\bno\b", answer) else None
