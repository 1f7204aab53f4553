"""The prompts at the top of a page: largest gains, largest losses and typical ones, chosen by rule, never by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from glmkit.reporting import wording
from glmkit.reporting.compare import Comparison
from glmkit.reporting.gallery import GalleryImage, PromptCard
from glmkit.reporting.gallery_order import metric_changes, prompt_means

PER_EXTREME = 2  # prompts with the largest gain, and as many with the largest loss
TOTAL = 6


@dataclass(frozen=True)
class Highlight:
    """One prompt, why it was chosen, its value (of a pair the change), and one image of each run that is compared."""

    reason: str
    value: float
    card: PromptCard
    images: tuple[GalleryImage, ...]


@dataclass(frozen=True)
class Highlights:
    """The chosen prompts, the metric that chose them, and the sentence that says by which rule; `runs` is 1 or 2."""

    items: tuple[Highlight, ...]
    metric: str
    rule: str
    runs: int


def highlights(cards: Sequence[PromptCard], comparison: Comparison) -> Highlights:
    """Choose prompts by the change of the leading metric between the runs of the verdict; of one run by its value.

    Prompts without an image of each of these runs are passed over.
    """
    lead, metric = comparison.lead, comparison.metrics[0]
    names = (lead.baseline, lead.run) if lead else tuple(comparison.scores)[:1]
    signs = {one.name: 1 if one.higher_is_better else -1 for one in comparison.metrics}
    means = [prompt_means(comparison.scores[name], signs) for name in names]
    shown = {card.id: images for card in cards if (images := scored_images(card, names))}
    values = {}
    for prompt_id in shown:
        change = metric_changes(prompt_id, means) if lead else list(means[0].get(prompt_id, ())) or None
        if change is not None:
            values[prompt_id] = change
    by_id = {card.id: card for card in cards}
    items = tuple(
        Highlight(reason, signs[metric.name] * values[prompt_id][0], by_id[prompt_id], shown[prompt_id])
        for prompt_id, reason in (choose_changes(values) if lead else choose_values(values)).items()
    )
    return Highlights(items, metric.name, rule(metric.name, names, cards), len(names))


def scored_images(card: PromptCard, names: Sequence[str]) -> tuple[GalleryImage, ...]:
    """Return an image of each run: those of the first seed that all of them scored, else the first of each; or none."""
    by_run = {
        name: {item.seed: item for item in card.images if item.run == name and item.image and item.error is None}
        for name in names
    }
    common = set.intersection(*(set(images) for images in by_run.values()))
    if common:
        return tuple(images[min(common)] for images in by_run.values())
    return tuple(images[min(images)] for images in by_run.values()) if all(by_run.values()) else ()


def choose_changes(changes: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Map prompt ids to "largest gain", "largest loss" or "typical", at most `TOTAL`.

    `changes` has one number per metric, higher is better: the first decides, the others where prompts are equal, then
    their order. Typical is what lies nearest to the median of the first; it fills up where too few gained or lost.
    """
    gains = [one for one in changes if changes[one][0] > 0]
    losses = [one for one in changes if changes[one][0] < 0]
    chosen = dict.fromkeys(sorted(gains, key=lambda one: [-x for x in changes[one]])[:PER_EXTREME], "largest gain")
    chosen |= dict.fromkeys(sorted(losses, key=lambda one: list(changes[one]))[:PER_EXTREME], "largest loss")
    return chosen | choose_typical(changes, chosen)


def choose_values(values: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Map prompt ids to "best", "worst" or "typical", as `choose_changes` does."""
    best = sorted(values, key=lambda one: [-x for x in values[one]])[:PER_EXTREME]
    worst = sorted((one for one in values if one not in best), key=lambda one: list(values[one]))[:PER_EXTREME]
    chosen = dict.fromkeys(best, "best") | dict.fromkeys(worst, "worst")
    return chosen | choose_typical(values, chosen)


def choose_typical(values: Mapping[str, Sequence[float]], chosen: Mapping[str, str]) -> dict[str, str]:
    """Fill up to `TOTAL` prompts with those nearest to the median."""
    middle = median(first for first, *_ in values.values()) if values else 0.0
    rest = sorted((one for one in values if one not in chosen), key=lambda one: abs(values[one][0] - middle))
    return dict.fromkeys(rest[: TOTAL - len(chosen)], "typical")


def rule(metric: str, names: Sequence[str], cards: Sequence[PromptCard]) -> str:
    """Say how the prompts were chosen."""
    name = wording.label_in_sentence(metric)
    by = f"change in {name} from {names[0]} to {names[1]}" if len(names) == 2 else f"{name} of {names[0]}"
    extremes = "largest gains, the largest losses" if len(names) == 2 else "best, the worst"
    several = any(item.seed != card.images[0].seed for card in cards for item in card.images)
    return (
        f"Chosen by {by}: the {extremes} and the prompts nearest to the median, ties in the order of the suite."
        f"{' Of several seeds the first that has a score.' if several else ''}"
    )
