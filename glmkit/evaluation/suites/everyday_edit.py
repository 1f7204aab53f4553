"""everyday-edit: edits that people ask for, in English and Chinese; scored by pixels against the truth, and by OCR."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from glmkit import shipped
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.evaluation.ocr.text_boxes import text_boxes
from glmkit.evaluation.suites.shared.edits import edit_suite, texts_replaced
from glmkit.posters.check import scale
from glmkit.posters.everyday.check_edits import edit_succeeded, margin
from glmkit.posters.everyday.edit_set import edit_set
from glmkit.posters.everyday.edits import EverydayEdit
from glmkit.posters.everyday.render import render

PROMPTS = shipped.ROOT / "benchmarks" / "everyday_edit" / "prompts.jsonl"
METRICS = {
    "edit_success": "glmkit-edit-success-2: share of images that show what was asked for. New texts: all of their "
    "words (Chinese: characters) were read, and of what was taken away none; an added text stands where the "
    "instruction says, in its colour. Colours, shapes and frames as in glmkit-attribute-accuracy-1 for everyday-en; an "
    "added or moved shape is there in its number and at its place. A text of another size: the box in which it was "
    "read is nearer to the true one than to that of the source. What was taken away or moved: 90 % of its pixels are "
    "nearer in CIELAB to what was behind it.",
    "background_psnr": "glmkit-background-psnr-2: peak signal-to-noise ratio in dB between image and source where "
    "nothing should change: the pixels in which the true source and the true target are equal, without a margin around "
    "the others: 1/16 of the shorter side for new, moved and resized texts and shapes, which may be a bit larger than "
    "the true ones, else 1/64. At most 60 an image; mean over the images.",
}


def succeeded(edit: EverydayEdit, image: Image.Image, lines: Sequence[RecognizedLine]) -> bool:
    """Tell whether an image shows what the instruction asks for."""
    width, height = edit.target.width, edit.target.height
    across, down = width / image.width, height / image.height
    boxes = [
        box and (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        for box in text_boxes(edit.target.texts, lines)
    ]
    pixels = np.asarray(scale(image, width, height))
    replaced = texts_replaced(edit.condition.texts, edit.target.texts, lines, edit.target.language)
    return replaced and edit_succeeded(pixels, edit, boxes)


SUITE = edit_suite(PROMPTS, "glmkit.posters.everyday.edit_set", edit_set, render, succeeded, METRICS, margin)
