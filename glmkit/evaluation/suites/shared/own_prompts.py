"""Prompts that people bring, in the files of `glmkit generate --prompts`; scored as text-render is.

`texts` of a prompt are what its image must show. Only where a suite says so are they those in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.errors import UserError
from glmkit.evaluation.metrics import text
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.suites.shared.base import Counts, Suite
from glmkit.inputs.images import read_image
from glmkit.inputs.prompts import FilePrompt, read_prompts
from glmkit.inputs.quotes import rendered_texts
from glmkit.records import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

UNSPACED = {"ja": "[\u3041-\u30ff]", "zh": "[\u3400-\u9fff]", "th": "[\u0e01-\u0e5b]"}  # kana before Chinese characters


class OwnPrompts(Suite):
    """Score the texts of prompts in a file; `from_quotes`: of a prompt without `texts`, those in its quotes."""

    metrics = {**text.METRICS, "word_precision": text.WORD_PRECISION}

    def __init__(self, *, from_quotes: bool) -> None:
        self.from_quotes = from_quotes

    def files(self, data: Path | None) -> list[Path]:
        """Give the file and the images that its prompts edit, as far as they are there; UserError without a file."""
        if data is None:
            raise UserError("own prompts need their file", fix="glmkit eval --prompts FILE.jsonl, or FILE.txt")
        edited = dict.fromkeys(Path(path) for prompt in read_prompts(data) for path in prompt.condition_images)
        return [data, *(path for path in edited if path.is_file())]

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with their texts; one that cannot be used has its error. UserError when that is every one."""
        prompts: list[Prompt] = []
        errors: list[UserError] = []
        for number, prompt in enumerate(read_prompts(files[0]), start=1):
            try:
                prompts.append(self._prompt(prompt))
            except UserError as error:
                errors.append(UserError(f"record {number}: {error.what}", found=error.found, fix=error.fix))
                prompts.append(Prompt(prompt.id, prompt.prompt, split=prompt.split, error=str(errors[-1])))
        if errors and len(errors) == len(prompts):
            raise UserError(f"{files[0]}, {errors[0].what}", found=errors[0].found, fix=errors[0].fix)
        return prompts

    def _prompt(self, prompt: FilePrompt) -> Prompt:
        """Make a prompt of the suite; UserError when it cannot be used."""
        made = as_prompt(prompt, from_quotes=self.from_quotes)
        if not made.texts:
            fix = '"texts": ["OPEN"], what its image must show' + (
                "" if self.from_quotes else "; or --texts-from quotes"
            )
            raise UserError("the prompt has no expected texts", found=prompt.prompt, fix=fix)
        return made

    def counts(self, prompt: Prompt, lines: Sequence[RecognizedLine], _image: Path) -> Counts:
        """Count what was read of the texts."""
        read = texts_of(lines)
        precision = text.word_precision(prompt.texts, read, prompt.language)
        return {**text.counts(prompt.texts, read, prompt.language), "word_precision": precision}

    def references(self, prompt: Prompt) -> Mapping[str, Image]:
        """Give the images that the prompt edits."""
        names = (f"condition_image{number or ''}" for number in range(len(prompt.condition_images)))
        return dict(zip(names, map(read_image, prompt.condition_images), strict=True))


def as_prompt(prompt: FilePrompt, *, from_quotes: bool) -> Prompt:
    """Make a prompt of a file's; UserError when it cannot be used. Without `texts` it may have none."""
    if prompt.error is not None:
        raise prompt.error
    if missing := next((path for path in prompt.condition_images if not Path(path).is_file()), None):
        raise UserError(f"{missing} does not exist", fix="check the path; those in a prompt file begin where it lies")
    texts = tuple(rendered_texts(prompt.prompt, prompt.texts)) if prompt.has_texts or from_quotes else ()
    return Prompt(
        prompt.id,
        prompt.prompt,
        texts,
        prompt.split,
        _language(prompt.language, texts),
        size=prompt.size or "",
        seed=prompt.seed or 0,
        steps=prompt.steps,
        guidance=prompt.guidance,
        condition_images=prompt.condition_images,
        glyph_texts=prompt.texts,
        named=prompt.named,
    )


def _language(language: str, texts: Sequence[str]) -> str:
    """Return the language of texts that are called English but written without spaces between words."""
    found = (name for name, letters in UNSPACED.items() if any(re.search(letters, text) for text in texts))
    return next(found, language) if language == "en" else language
