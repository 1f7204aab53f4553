"""nano-edit: edits of posters with words that nano never saw; scored by pixels against the ground truth, and by OCR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from glmkit import shipped
from glmkit.errors import UserError
from glmkit.evaluation.metrics import text
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.suites.shared.base import BuiltInSuite, Counts
from glmkit.inputs.images import read_image
from glmkit.posters.check_edits import background_psnr, edit_succeeded
from glmkit.posters.edit_set import edit_set
from glmkit.posters.edits import Edit
from glmkit.posters.render import render
from glmkit.records import Prompt

PROMPTS = shipped.ROOT / "benchmarks" / "nano_edit" / "prompts.jsonl"
METRICS: Mapping[str, Mapping[str, str]] = {
    "edit_success": {
        "direction": "higher",
        "definition": "glmkit-edit-success-1: share of images that show what was asked for. A replaced text: "
        "all of its words were read, and none of the old text's. A background: the named colour that most pixels along "
        "the edges are nearest to. An added shape: the largest patch that is a shape has its kind, colour and place. A "
        "removed shape: no patch is a shape, and 90 % of the pixels that it covered have the background's colour.",
    },
    "background_psnr": {
        "direction": "higher",
        "definition": "glmkit-background-psnr-1: peak signal-to-noise ratio in dB between image and source "
        "where nothing should change: the pixels in which the true source and the true target are equal, without a "
        "margin of 1/64 of the shorter side around the others, for soft edges. At most 60 an image; mean over the "
        "images.",
    },
    "word_accuracy": {
        "direction": "higher",
        "definition": "All texts that the edited image should show count, unchanged ones included. "
        + text.METRICS["word_accuracy"]["definition"],
    },
}


def references(prompt: Prompt) -> dict[str, Image.Image]:
    """Render the poster before and after the edit."""
    edit = _edit(prompt)
    return {"condition_image": render(edit.condition), "expected": render(edit.target)}


def counts(prompt: Prompt, lines: Sequence[RecognizedLine], path: Path) -> Counts:
    """Score the edit and the rest of the image by pixels, and the texts by the recognized lines."""
    edit = _edit(prompt)
    image = read_image(path)
    success = _replaced(edit, texts_of(lines)) if edit.kind == "word" else edit_succeeded(image, edit)
    return {
        "edit_success": (success, 1),
        "background_psnr": (background_psnr(image, edit), 1),
        "word_accuracy": text.counts(prompt.texts, texts_of(lines), prompt.language)["word_accuracy"],
    }


def _replaced(edit: Edit, lines: Sequence[str]) -> bool:
    new, old, read = (Counter(text.units(texts, "en")) for texts in (edit.new_texts, edit.old_texts, lines))
    return new <= read and not old & read


def _edit(prompt: Prompt) -> Edit:
    """Look up the ground truth of a prompt; UserError when the poster world would make another prompt."""
    edit = edit_set().get(prompt.id)
    if edit is None or (edit.instruction, edit.target.texts) != (prompt.prompt, prompt.texts):
        raise UserError(
            f"{PROMPTS}: {prompt.id} is not what the poster world makes",
            found=prompt.prompt,
            fix=f"python -m glmkit.posters.edit_set > {PROMPTS}",
        )
    return edit


SUITE = BuiltInSuite(PROMPTS, METRICS, counts, references)
