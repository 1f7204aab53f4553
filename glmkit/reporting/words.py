"""The sentences of a report: numbers, differences and the verdict in plain language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from glmkit.evaluation.stats import Estimate

NAMES = {"clip": "CLIP", "clipscore": "CLIPScore", "cmmd": "CMMD", "efficientnet": "EfficientNet", "en": "EN"}
NAMES |= {"frechet": "Fréchet", "lite0": "Lite0", "oneig": "OneIG", "rbf": "RBF", "zh": "ZH"}
EVIDENCE = re.compile(r" \((?:95 % interval |\d+ prompts?, too few )[^()]*\)\.$")
# Controls that reorder letters, and those below the space but tab and line feed.
HIDDEN = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\\x00-\\x08\\x0b-\\x1f]")


@dataclass(frozen=True)
class Difference:
    """`other` minus `base` on their common prompts. `outcome` is better, worse or open (not resolved)."""

    base: str
    other: str
    estimate: Estimate
    outcome: str


def difference(base: str, other: str, estimate: Estimate, higher_is_better: bool) -> Difference:
    """Say who is better; a difference whose interval holds 0, or that has none, is not resolved."""
    if estimate.low is None or estimate.high is None or estimate.low <= 0 <= estimate.high:
        return Difference(base, other, estimate, "open")
    return Difference(base, other, estimate, "better" if (estimate.low > 0) == higher_is_better else "worse")


def label(metric: str) -> str:
    """word_accuracy -> Word accuracy, ned -> NED, clip_cosine -> CLIP cosine."""
    words = metric.replace("_", " ")
    if len(words) <= 3:
        return words.upper()
    text = " ".join(NAMES.get(word, word) for word in words.split())
    return text[:1].upper() + text[1:]


def inside(metric: str) -> str:
    """The label in the middle of a sentence."""
    text = label(metric)
    return text if text.isupper() or text.split()[0] in NAMES.values() else text[:1].lower() + text[1:]


def number(value: float | None, signed: bool = False) -> str:
    """Three decimals with a true minus sign, none at zero; a dash for no value."""
    if value is None:
        return "–"
    rounded = round(value, 3) + 0.0  # + 0.0: there is no minus zero
    return f"{rounded:{'+' if signed and rounded else ''}.3f}".replace("-", "\u2212")


def short(value: float) -> str:
    """Four digits that count, wherever they are: FID is in the tens, KID in the thousandths."""
    return f"{value:.4g}".replace("-", "\u2212")


def count(amount: int, thing: str) -> str:
    return f"{amount} {thing}" if amount == 1 else f"{amount} {thing}s"


def evidence(estimate: Estimate, signed: bool = False) -> str:
    """The interval and the number of prompts, in brackets."""
    prompts = count(estimate.n, "prompt")
    if estimate.low is None or estimate.high is None:
        return f"({prompts}, too few for an interval)"
    return f"(95 % interval {number(estimate.low, signed)} to {number(estimate.high, signed)}, {prompts})"


def headline(sentence: str) -> Markup:
    """A verdict as HTML, the evidence at its end in a quieter voice."""
    said = visible(sentence)
    found = EVIDENCE.search(said)
    if found is None:
        return escape(said)
    return Markup('{} <span class="evidence">{}</span>').format(said[: found.start()], found[0].strip())


def difference_sentence(change: Difference) -> str:
    """One line under a metric: better by, worse by, or not resolved."""
    value = change.estimate.value
    if value is None:
        return f"{change.other} against {change.base}: no common scored prompt"
    if change.outcome == "open":
        proof = evidence(change.estimate, signed=True)
        return f"{change.other} against {change.base}: difference not resolved, {number(value, signed=True)} {proof}"
    return f"{change.other} is {change.outcome} than {change.base} by {size_of(change)}"


def size_of(change: Difference) -> str:
    """The amount of a resolved difference without its sign; the outcome says which way it goes."""
    estimate = change.estimate
    assert estimate.value is not None and estimate.low is not None and estimate.high is not None
    low, high = sorted((abs(estimate.low), abs(estimate.high)))
    return f"{number(abs(estimate.value))} {evidence(Estimate(estimate.value, low, high, estimate.n))}"


def verdict(metric: str, scores: dict[str, Estimate], lead: Difference | None, higher_is_better: bool) -> str:
    """The first sentence of the page.

    `scores` has one estimate a run; `lead` compares the two runs of a pair, or the best of many with the second.
    """
    known = {name: estimate for name, estimate in scores.items() if estimate.value is not None}
    if not known:
        return "No image could be scored."
    if len(known) == 1 or lead is None:
        name, estimate = next(iter(known.items()))
        return f"{name} reaches a {inside(metric)} of {number(estimate.value)} {evidence(estimate)}."
    if len(scores) == 2:
        return pair_verdict(metric, lead, higher_is_better)
    sentence = f"{lead.other} has the best {inside(metric)} of {len(scores)} runs, {number(known[lead.other].value)}"
    if lead.outcome != "better":  # "worse" happens when the best run failed on prompts where the second did well
        return f"{sentence}, but its lead over {lead.base} is not resolved."
    return f"{sentence}, ahead of {lead.base} by {size_of(lead)}."


def pair_verdict(metric: str, change: Difference, higher_is_better: bool) -> str:
    if change.outcome == "open":
        proof = f"{number(change.estimate.value, signed=True)} {evidence(change.estimate, signed=True)}"
        return f"{change.other} against {change.base}: difference in {inside(metric)} not resolved, {proof}."
    direction = "higher" if (change.outcome == "better") == higher_is_better else "lower"
    return (
        f"{change.other} is {change.outcome} than {change.base}: {inside(metric)} is {direction} by {size_of(change)}."
    )


def enumerate_words(items: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def visible(text: str) -> str:
    """Show control characters, which would reorder or hide letters, as their code points."""
    return HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
