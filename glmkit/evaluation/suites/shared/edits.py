"""What suites of edits share: reference images, what should stay, all texts; each says when an edit succeeded."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.metrics import text
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.suites.shared.base import BuiltInSuite, Counts
from glmkit.inputs.images import read_image
from glmkit.posters.check_edits import background_psnr
from glmkit.records import Prompt


def edit_suite(
    prompts: Path,
    module: str,
    edits: Callable[[], Mapping[str, Any]],
    render: Callable[[Any], Image.Image],
    succeeded: Callable[[Any, Image.Image, Sequence[RecognizedLine]], bool],
    metrics: Mapping[str, str],
    margin: Callable[[Any], float],
) -> BuiltInSuite:
    """Make a suite of the edits that `module` prints as prompts.

    `metrics` define edit_success and background_psnr; `margin` is the share of the shorter side, around what an edit
    changes, that may change with it.
    """

    def truth(prompt: Prompt) -> Any:
        """Look up the ground truth of a prompt; UserError when the poster world would make another prompt."""
        edit = edits().get(prompt.id)
        if edit is None or (edit.instruction, edit.target.texts) != (prompt.prompt, prompt.texts):
            raise UserError(
                f"{prompts}: {prompt.id} is not what the poster world makes",
                found=prompt.prompt,
                fix=f"python -m {module} > {shlex.quote(str(prompts))}",
            )
        return edit

    def references(prompt: Prompt) -> dict[str, Image.Image]:
        """Render the poster before and after the edit."""
        edit = truth(prompt)
        return {"condition_image": render(edit.condition), "expected": render(edit.target)}

    def counts(prompt: Prompt, lines: Sequence[RecognizedLine], path: Path) -> Counts:
        """Score the edit and the rest of the image by pixels, and the texts by the recognized lines."""
        edit, image = truth(prompt), read_image(path)
        return {
            "edit_success": (succeeded(edit, image, lines), 1),
            "background_psnr": (background_psnr(image, render(edit.condition), render(edit.target), margin(edit)), 1),
            "word_accuracy": text.counts(prompt.texts, texts_of(lines), prompt.language)["word_accuracy"],
            "word_precision": text.word_precision(prompt.texts, texts_of(lines), prompt.language),
        }

    of_words = {"word_accuracy": text.METRICS["word_accuracy"], "word_precision": text.WORD_PRECISION}
    definitions = {**metrics, **{name: ALL_TEXTS + about["definition"] for name, about in of_words.items()}}
    described = {name: {"direction": "higher", "definition": words} for name, words in definitions.items()}
    return BuiltInSuite(prompts, described, counts, references)


ALL_TEXTS = "All texts that the edited image should show count, unchanged ones included. "


def texts_replaced(old: Sequence[str], new: Sequence[str], lines: Sequence[RecognizedLine], language: str) -> bool:
    """Tell whether all words that only the new texts have were read, and none of those that went; repeats count."""
    before, after, read = (Counter(text.units(texts, language)) for texts in (old, new, texts_of(lines)))
    return after - before <= read and not (before - after) & (read - after)
