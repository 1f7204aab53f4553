"""Numbers, names of metrics, differences and the verdict of a report, in plain language."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from glmkit.evaluation.stats import Estimate

Outcome = Literal["better", "worse", "unresolved"]

PROPER_NAMES = {
    "clip": "CLIP",
    "clipscore": "CLIPScore",
    "cmmd": "CMMD",
    "dpg": "DPG",
    "efficientnet": "EfficientNet",
    "en": "EN",
    "frechet": "Fréchet",
    "gedit": "GEdit",
    "geneval": "GenEval",
    "geneval2": "GenEval 2",
    "gned": "GNED",
    "hpsv2": "HPSv2",
    "hpsv3": "HPSv3",
    "imagereward": "ImageReward",
    "imgedit": "ImgEdit",
    "lite0": "Lite0",
    "oneig": "OneIG",
    "pickscore": "PickScore",
    "psnr": "PSNR",
    "rbf": "RBF",
    "tiif": "TIIF",
    "unigenbench": "UniGenBench",
    "vqascore": "VQAScore",
    "wise": "WISE",
    "zh": "ZH",
}
WORDS = ("won",)  # that are short, and no abbreviations
EVIDENCE = re.compile(r" \((?:95 % interval |\d+ prompts?, too few )[^()]*\)\.$")
# Controls that reorder letters, and those below the space but tab and line feed.
CONTROL_CHARACTERS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\\x00-\\x08\\x0b-\\x1f]")


@dataclass(frozen=True)
class Difference:
    """Hold `run` minus `baseline` on their common prompts; unresolved when the interval contains 0."""

    baseline: str
    run: str
    estimate: Estimate
    outcome: Outcome


def difference(baseline: str, run: str, estimate: Estimate, higher_is_better: bool) -> Difference:
    """Decide who is better; a difference whose interval contains 0, or that has none, is unresolved."""
    if estimate.low is None or estimate.high is None or estimate.low <= 0 <= estimate.high:
        return Difference(baseline, run, estimate, "unresolved")
    return Difference(baseline, run, estimate, "better" if (estimate.low > 0) == higher_is_better else "worse")


def label(metric: str) -> str:
    """Turn word_accuracy into Word accuracy, ned into NED, clip_cosine into CLIP cosine."""
    name = metric.replace("_", " ")
    if len(name) <= 3 and name not in WORDS:
        return name.upper()
    text = " ".join(PROPER_NAMES.get(word, word) for word in name.split())
    return text[:1].upper() + text[1:]


def label_in_sentence(metric: str) -> str:
    """Return the label as it stands in the middle of a sentence."""
    text = label(metric)
    return text if text.isupper() or text.split()[0] in PROPER_NAMES.values() else text[:1].lower() + text[1:]


def number(value: float | None, signed: bool = False) -> str:
    """Format three decimals with a true minus sign, none at zero; a dash for no value."""
    if value is None:
        return "–"
    rounded = round(value, 3) + 0.0  # + 0.0: there is no minus zero
    return f"{rounded:{'+' if signed and rounded else ''}.3f}".replace("-", "\u2212")


def four_digits(value: float) -> str:
    """Format four significant digits: FID is in the tens, KID in the thousandths."""
    return f"{value:.4g}".replace("-", "\u2212")


def count(amount: int, noun: str) -> str:
    """Join an amount and a noun, which takes an s where the amount is not 1."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def evidence(estimate: Estimate, signed: bool = False) -> str:
    """Return the interval and the number of prompts, in brackets."""
    prompts = count(estimate.n, "prompt")
    if estimate.low is None or estimate.high is None:
        return f"({prompts}, too few for an interval)"
    return f"(95 % interval {number(estimate.low, signed)} to {number(estimate.high, signed)}, {prompts})"


def headline(sentence: str) -> Markup:
    """Return a verdict as HTML, the evidence at its end in a quieter voice."""
    text = show_control_characters(sentence)
    match = EVIDENCE.search(text)
    if match is None:
        return escape(text)
    return Markup('{} <span class="evidence">{}</span>').format(text[: match.start()], match[0].strip())


def difference_sentence(change: Difference) -> str:
    """Return the line under a metric: better by, worse by, or not resolved."""
    value = change.estimate.value
    if value is None:
        return f"{change.run} against {change.baseline}: no common scored prompt"
    if change.outcome == "unresolved":
        return f"{change.run} against {change.baseline}: difference not resolved, {signed_size(change)}"
    return f"{change.run} is {change.outcome} than {change.baseline} by {absolute_size(change)}"


def signed_size(change: Difference) -> str:
    """Return the amount of an unresolved difference with its interval, both with their signs."""
    return f"{number(change.estimate.value, signed=True)} {evidence(change.estimate, signed=True)}"


def absolute_size(change: Difference) -> str:
    """Return the amount of a resolved difference without its sign; the outcome says which way it goes."""
    value, low, high, n = change.estimate
    assert value is not None
    assert low is not None
    assert high is not None
    low, high = sorted((abs(low), abs(high)))
    return f"{number(abs(value))} {evidence(Estimate(value, low, high, n))}"


def verdict(metric: str, scores: Mapping[str, Estimate], lead: Difference | None, higher_is_better: bool) -> str:
    """Return the first sentence of the page.

    `scores` has one estimate per run; `lead` compares the two runs of a pair, or the best of many with the second.
    """
    scored = {run: estimate for run, estimate in scores.items() if estimate.value is not None}
    if not scored:
        return "No image could be scored."
    if len(scored) == 1 or lead is None:
        run, estimate = next(iter(scored.items()))
        return f"{run} reaches a {label_in_sentence(metric)} of {number(estimate.value)} {evidence(estimate)}."
    if len(scores) == 2:
        return pair_verdict(metric, lead, higher_is_better)
    best = number(scored[lead.run].value)
    sentence = f"{lead.run} has the best {label_in_sentence(metric)} of {len(scores)} runs, {best}"
    if lead.outcome != "better":  # "worse" happens when the best run failed on prompts where the second did well
        return f"{sentence}, but its lead over {lead.baseline} is not resolved."
    return f"{sentence}, ahead of {lead.baseline} by {absolute_size(lead)}."


def pair_verdict(metric: str, change: Difference, higher_is_better: bool) -> str:
    """Return the first sentence of a page that compares two runs."""
    name = label_in_sentence(metric)
    if change.outcome == "unresolved":
        return f"{change.run} against {change.baseline}: difference in {name} not resolved, {signed_size(change)}."
    direction = "higher" if (change.outcome == "better") == higher_is_better else "lower"
    return f"{change.run} is {change.outcome} than {change.baseline}: {name} is {direction} by {absolute_size(change)}."


def join_with_and(items: Sequence[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def show_control_characters(text: str) -> str:
    """Replace control characters, which would reorder or hide letters, by their code points."""
    return CONTROL_CHARACTERS.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)
