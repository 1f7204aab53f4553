"""The totals of DPG-Bench (Hu et al. 2024, arXiv 2403.05135), as its `compute_dpg_bench.py` computes them.

An image counts a row CATEGORY/QUESTION after the rule of parents, and one ANSWERED CATEGORY/QUESTION before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from glmkit.evaluation.metrics.chains import Chain, Step, mean, pool

CATEGORIES = ("global", "entity", "attribute", "relation", "other")
ELSE = "no category"
ANSWERED = "answered "

CHAINS: Mapping[str, Chain] = {
    "dpg": Chain(
        (*CATEGORIES, ELSE),
        (Step(mean, ("prompt", "image")), Step(mean, ("prompt",)), Step(mean, scale=100)),
        is_everywhere=False,
    ),
    **{f"dpg_{name}": Chain((name,), (Step(pool, scale=100),), is_everywhere=False) for name in CATEGORIES},
    **{
        f"dpg_{name}_last_image": Chain(
            (ANSWERED + name,), (Step(pool, scale=100),), is_everywhere=False, last_image=True
        )
        for name in CATEGORIES
    },
}


def category(proposition: str) -> str:
    """Read the category of a cell like `attribute - color (car, red)`: what stands before bracket and hyphen."""
    name = proposition.partition("(")[0].partition("-")[0].strip()
    return name if name in CATEGORIES else ELSE
