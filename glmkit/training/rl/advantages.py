"""How much better an image is than the others of its prompt."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from glmkit.training.rl.rewards import RewardScore

BOUND = 5.0  # of an advantage, as in Flow-GRPO (arXiv:2505.05470)


def advantages(
    scores: Sequence[RewardScore],
    groups: Sequence[Hashable],
    weights: Mapping[str, float],
    min_stds: Mapping[str, float],
) -> np.ndarray:
    """Return the advantage of every image, float64, NaN where it has none; those of one group have one prompt.

    Every reward is normalised by mean and standard deviation of the group before the weighted sum (GDPO,
    arXiv:2601.05242). The deviation is at least that of `min_stds`: in a group of equal images the last digits
    mean nothing. A reward moves only those of which it says something. A failed image leaves its group, and one that is
    alone then has no advantage. Within -BOUND to BOUND.
    """
    total = np.zeros(len(scores))
    members: dict[Hashable, list[int]] = {}
    for index, (score, group) in enumerate(zip(scores, groups, strict=True)):
        if score.error is None:
            members.setdefault(group, []).append(index)
        else:
            total[index] = np.nan
    for indices in members.values():
        if len(indices) < 2:
            total[indices] = np.nan
            continue
        for name, weight in weights.items():
            judged = [index for index in indices if name in scores[index].parts]
            if len(judged) > 1:
                values = np.array([scores[index].parts[name] for index in judged])
                deviation = max(float(values.std(ddof=1)), min_stds[name])
                total[judged] += weight * (values - values.mean()) / deviation
    return np.clip(total, -BOUND, BOUND)
