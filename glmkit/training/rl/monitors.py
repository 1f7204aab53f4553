"""What tells a better image from one that games its reward: numbers of every round, each within limits of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from glmkit.config.rl import Limits
from glmkit.errors import UserError
from glmkit.evaluation.metrics.content import LUMA, colour_entropy, edge_density
from glmkit.evaluation.metrics.text import unrequested
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.ocr.text_boxes import text_heights

AGAINST_BASE = ("edge_density", "colour_entropy", "brightness", "letter_size")
AGAINST_FIRST = ("diversity", "entropy")
GROWTH = ("unrequested", "duplicates")
ABSOLUTE = ("kl", "surprise", "drift")
SMALLEST = {"edge_density": 1e-3, "colour_entropy": 0.05, "brightness": 1.0}  # below, a ratio would say nothing
SIDE = 32  # pixels of the small images whose distance is taken
SAME = 0.25  # root mean square of levels up to which two small images are the same


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


def texts(
    expected: Sequence[str], lines: Sequence[RecognizedLine], base_lines: Sequence[RecognizedLine]
) -> dict[str, float]:
    """Measure the text in an image, as far as there is something to measure; `lines` are in reading order.

    `unrequested`: characters that stand for no expected text, per expected one. `letter_size`: mean logarithm of the
    heights of texts over those in the base image.
    """
    extra, characters = unrequested(expected, texts_of(lines))
    heights = zip(*(text_heights(expected, of) for of in (lines, base_lines)), strict=True)
    ratios = [math.log(here / before) for here, before in heights if here and before]
    found = {"unrequested": extra / characters} if characters else {}
    return found | ({"letter_size": float(np.mean(ratios))} if ratios else {})


def means(read: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average what `texts` measured of the images of a round; the letter size as a factor."""
    values = {name: [one[name] for one in read if name in one] for name in ("unrequested", "letter_size")}
    found = {name: float(np.mean(of)) for name, of in values.items() if of}
    return {name: math.exp(value) if name == "letter_size" else value for name, value in found.items()}


def alike(groups: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
    """Measure how far the images of a group are apart; thumbnails of each group.

    `diversity`: mean distance, root mean square of levels, between two images of a group. `duplicates`: share of the
    images that another one of the group equals.
    """
    distances: list[float] = []
    twins = 0
    for group in groups:
        stack = np.stack(group)
        apart = np.sqrt(np.square(stack[:, None] - stack[None]).mean(axis=(2, 3)))
        distances += apart[np.triu_indices(len(group), 1)].tolist()
        twins += int(((apart <= SAME).sum(axis=1) > 1).sum())
    count = sum(map(len, groups))
    return {"diversity": float(np.mean(distances)) if distances else 0.0, "duplicates": twins / max(1, count)}


def check(stage: str, step: int, now: Mapping[str, float], first: Mapping[str, float], limits: Limits) -> None:
    """UserError when a number of a round is outside its limits: images get their rewards by becoming something else.

    `first` are the numbers of the first round.
    """
    for name in (*AGAINST_BASE, *AGAINST_FIRST, *GROWTH, *ABSOLUTE):
        bounds = getattr(limits, name)
        if bounds is None or name not in now:
            continue
        value, of = now[name], "with its adapters off"
        if name in AGAINST_FIRST:
            if not first.get(name):
                continue
            value, of = value / first[name], "in the first round"
        if name in GROWTH:
            growth = value - first.get(name, value)
            if growth <= bounds:
                continue
            found = f"{value:.2f}, {growth:.2f} more than in the first round, limit {bounds:g}"
            wider = f"{2 * growth:.2g}"
        elif name in ABSOLUTE:
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
