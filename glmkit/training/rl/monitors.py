"""What tells a better image from one that games its reward: numbers of every round, each within limits of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from glmkit.config.rl import Limits
from glmkit.errors import UserError
from glmkit.evaluation.metrics.content import LUMA, colour_entropy, edge_density

AGAINST_BASE = ("edge_density", "colour_entropy", "brightness")
AGAINST_FIRST = ("diversity", "entropy")
ABSOLUTE = ("kl", "surprise", "drift")
SMALLEST = {"edge_density": 1e-3, "colour_entropy": 0.05, "brightness": 1.0}  # below, a ratio would say nothing
SIDE = 32  # pixels of the small images whose distance is taken


def looks(image: Image.Image) -> dict[str, float]:
    """Measure an image in RGB: share of edges, entropy of colours in bits, mean luma 0 to 255."""
    pixels = np.asarray(image.convert("RGB"))
    brightness = float((pixels @ np.array(LUMA)).mean())
    return {"edge_density": edge_density(pixels), "colour_entropy": colour_entropy(pixels), "brightness": brightness}


def against_base(images: Sequence[Mapping[str, float]], bases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Divide the mean looks of images by those of images of the same prompts by the model without adapters."""
    means = [{name: float(np.mean([one[name] for one in of])) for name in SMALLEST} for of in (images, bases)]
    return {name: (means[0][name] + least) / (means[1][name] + least) for name, least in SMALLEST.items()}


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return an image as SIDE x SIDE levels of grey, float64, by which images are compared."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)


def diversity(groups: Sequence[Sequence[np.ndarray]]) -> float:
    """Return the mean distance, root mean square of levels, between two images of a group; thumbnails of each group."""
    distances = [
        float(np.sqrt(np.square(one - other).mean()))
        for group in groups
        for number, one in enumerate(group)
        for other in group[number + 1 :]
    ]
    return float(np.mean(distances)) if distances else 0.0


def check(stage: str, step: int, now: Mapping[str, float], first: Mapping[str, float], limits: Limits) -> None:
    """UserError when a number of a round is outside its limits: images get their rewards by becoming something else.

    `first` are the numbers of the first round.
    """
    for name in (*AGAINST_BASE, *AGAINST_FIRST, *ABSOLUTE):
        bounds = getattr(limits, name)
        if bounds is None or name not in now:
            continue
        value, of = now[name], "with its adapters off"
        if name in AGAINST_FIRST:
            if not first.get(name):
                continue
            value, of = value / first[name], "in the first round"
        if name in ABSOLUTE:
            if abs(value) <= bounds:
                continue
            found, wider = f"{value:.3g}, limit {bounds:g}", f"{2 * abs(value):.2g}"
        else:
            if bounds[0] <= value <= bounds[1]:
                continue
            found = f"{value:.2f} of what it is {of}, limits {bounds[0]:g} to {bounds[1]:g}"
            wider = f"[{min(bounds[0], value / 2):.2g},{max(bounds[1], 2 * value):.2g}]"
        raise UserError(
            f"{stage}: {name.replace('_', ' ')} left its limits at step {step}: the reward is gamed, not earned; "
            "the adapter of the last saved step stays",
            found=found,
            fix=f"other rewards, more {stage}.rl.kl_weight, a smaller {stage}.learning_rate, or go on with "
            f"{stage}.rl.limits.{name}={wider}",
        )
