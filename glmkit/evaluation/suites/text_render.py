"""text-render: our own prompts that ask for written words; scored by what OCR reads in the image.

Prompts of the poster grammar also count what the pixels show of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glmkit import shipped
from glmkit.evaluation.metrics import text
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.suites.shared.base import BuiltInSuite, Counts
from glmkit.inputs.images import read_image
from glmkit.records import Prompt

PROMPTS = shipped.ROOT / "benchmarks" / "text_render" / "prompts.jsonl"
METRICS: Mapping[str, Mapping[str, str]] = {
    **text.METRICS,
    "attribute_accuracy": {
        "direction": "higher",
        "definition": "glmkit-attribute-accuracy-1: share of the properties named by the caption that the "
        "image has, of the prompts whose ground truth is known (splits simple, retro and layouts): background, colour "
        "and position of the text, kind with colour and place of the shape, which layouts names by one word, and for "
        "retro the double frame; by pixels (glmkit.posters.check).",
    },
}


def counts(prompt: Prompt, lines: Sequence[RecognizedLine], image: Path) -> Counts:
    """Score the texts by the recognized lines, and attributes by pixels."""
    return {
        **text.counts(prompt.texts, texts_of(lines), prompt.language),
        "attribute_accuracy": _attributes(prompt, image),
    }


def _attributes(prompt: Prompt, image: Path) -> tuple[float, float]:
    """Count the properties that the image has, of how many; (0, 0) where its ground truth is not known."""
    from glmkit.posters.simple import attribute_checks  # imports torch

    if prompt.id not in attribute_checks():
        return 0, 0
    checked = attribute_checks()[prompt.id](read_image(image))
    return sum(checked.values()), len(checked)


SUITE = BuiltInSuite(PROMPTS, METRICS, counts)
