"""How long intervals take: python benchmarks/bootstrap.py [PROMPTS]

One score, a second score of the same prompts, and a paired difference, with the resamples that every evaluation uses.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from glmkit.evaluation import stats
from glmkit.records import Score


def rows(prompts: int, seed: int) -> list[Score]:
    """Make one image per prompt with 8 words, a share of them read."""
    hits = np.random.default_rng(seed).binomial(8, 0.7, prompts)
    return [
        Score(f"{i}_0", str(i), 0, "all", "en", ("x",), counts={"word_accuracy": (int(n), 8)})
        for i, n in enumerate(hits)
    ]


def main() -> None:
    prompts = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    one, other = rows(prompts, 1), rows(prompts, 2)
    print(f"{prompts} prompts, {stats.RESAMPLES} resamples")
    for name, work in (
        ("first score", lambda: stats.estimate(one, "word_accuracy")),
        ("second score", lambda: stats.estimate(other, "word_accuracy")),
        ("paired difference", lambda: stats.paired_difference(one, other, "word_accuracy")),
    ):
        start = time.perf_counter()
        result = work()
        print(f"{name}: {time.perf_counter() - start:.2f} s, {result[0]:+.4f} [{result[1]:+.4f}, {result[2]:+.4f}]")


if __name__ == "__main__":
    main()
