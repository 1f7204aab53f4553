"""nano-edit: edits of posters with words that nano never saw; scored by pixels against the ground truth, and by OCR."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from glmkit import shipped
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.evaluation.suites.shared.edits import edit_suite, texts_replaced
from glmkit.posters.check_edits import MARGIN, edit_succeeded
from glmkit.posters.edit_set import edit_set
from glmkit.posters.edits import Edit
from glmkit.posters.render import render

PROMPTS = shipped.ROOT / "benchmarks" / "nano_edit" / "prompts.jsonl"
METRICS = {
    "edit_success": "glmkit-edit-success-1: share of images that show what was asked for. A replaced text: "
    "all of its words were read, and none of the old text's. A background: the named colour that most pixels along "
    "the edges are nearest to. An added shape: the largest patch that is a shape has its kind, colour and place. A "
    "removed shape: no patch is a shape, and 90 % of the pixels that it covered have the background's colour.",
    "background_psnr": "glmkit-background-psnr-1: peak signal-to-noise ratio in dB between image and source "
    "where nothing should change: the pixels in which the true source and the true target are equal, without a "
    "margin of 1/64 of the shorter side around the others, for soft edges. At most 60 an image; mean over the "
    "images.",
}


def succeeded(edit: Edit, image: Image.Image, lines: Sequence[RecognizedLine]) -> bool:
    """Tell whether an image shows what the instruction asks for."""
    if edit.kind == "word":
        return texts_replaced(edit.condition.texts, edit.target.texts, lines, "en")
    return edit_succeeded(image, edit)


SUITE = edit_suite(PROMPTS, "glmkit.posters.edit_set", edit_set, render, succeeded, METRICS, lambda _: MARGIN)
