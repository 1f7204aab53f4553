"""text-render: our own prompts that ask for written words; scored by what OCR reads in the image.

Prompts of the poster grammar, and those that say what they name, also count what the pixels show of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from glmkit import shipped
from glmkit.evaluation.metrics import text
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.ocr.text_boxes import text_boxes
from glmkit.evaluation.suites.shared.base import BuiltInSuite, Counts
from glmkit.inputs.images import read_image
from glmkit.records import Prompt

PROMPTS = shipped.ROOT / "benchmarks" / "text_render" / "prompts.jsonl"
METRICS: Mapping[str, Mapping[str, str]] = {
    **text.METRICS,
    "character_accuracy": text.CHARACTER_ACCURACY,
    "attribute_accuracy": {
        "direction": "higher",
        "definition": "glmkit-attribute-accuracy-1: share of the properties named by the caption that the "
        "image has, of the prompts whose ground truth is known, by pixels. Splits simple, retro and layouts "
        "(glmkit.posters.check): background, colour and position of the text, kind with colour and place of the shape, "
        "which layouts names by one word, and for retro the double frame. Splits everyday-en, everyday-zh, long-words "
        "and multi-text (glmkit.posters.everyday.check): background, colour of each text, kind, colour and number of "
        "shapes, their place, and frame with its colour and thickness, each where the prompt names it; a colour is "
        "right when it is nearer in CIELAB to the named one than to clearly different ones.",
    },
    "texts_in_place": {
        "direction": "higher",
        "definition": "glmkit-places-1: share of the texts with a named place (top, middle, bottom, left, right, below "
        "the text before) that stand there, by the box in which OCR read them; a text read with a similarity under 0.5 "
        "(glmkit-ned-1) stands nowhere.",
    },
    "all_texts_in_place": {
        "direction": "higher",
        "definition": "glmkit-all-places-1: share of the images in which every text with a named place stands there, "
        "as in glmkit-places-1, of the prompts that name places.",
    },
    "word_precision": text.WORD_PRECISION,
}


def counts(prompt: Prompt, lines: Sequence[RecognizedLine], image: Path) -> Counts:
    """Score texts and their places by the recognized lines, and attributes by pixels."""
    read = texts_of(lines)
    return {
        **text.counts(prompt.texts, read, prompt.language),
        "character_accuracy": text.characters_in_order(prompt.texts, read),
        **named_counts(prompt, lines, read_image(image)),
        "word_precision": text.word_precision(prompt.texts, read, prompt.language),
    }


def named_counts(prompt: Prompt, lines: Sequence[RecognizedLine], image: Image.Image) -> Counts:
    """Count what the image has of what the prompt names, of how many; (0, 0) where its ground truth is not known."""
    in_place: list[bool] = []
    if prompt.named:
        from glmkit.posters.everyday.check import Named, check_attributes, check_places  # imports torch

        named, boxes = Named.from_dict(prompt.named, prompt.id), text_boxes(prompt.texts, lines)
        pixels = np.asarray(image.convert("RGB"))
        in_place = check_places(named, boxes, (pixels.shape[1], pixels.shape[0]))
        checked = [right for _, right in check_attributes(pixels, named, boxes)]
    else:
        from glmkit.posters.simple import attribute_checks

        check = attribute_checks().get(prompt.id)
        checked = [] if check is None else list(check(image).values())
    return {
        "attribute_accuracy": (sum(checked), len(checked)),
        "texts_in_place": (sum(in_place), len(in_place)),
        "all_texts_in_place": (bool(in_place) and all(in_place), int(bool(in_place))),
    }


SUITE = BuiltInSuite(PROMPTS, METRICS, counts)
