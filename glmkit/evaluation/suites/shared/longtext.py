"""LongText-Bench (X-Omni, Geng et al. 2025, arXiv 2507.22058): 160 prompts per language, 4 images each.

Prompts: `text_prompts.jsonl` and `text_prompts_zh.jsonl` of the repository X-Omni-Team/X-Omni, folder textbench.
Images: `<prompt id, four digits>_<repeat>.png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from glmkit.evaluation.metrics import text
from glmkit.evaluation.metrics.longtext import longtext_answer, longtext_score
from glmkit.evaluation.ocr.engines import qwen2_5_vl
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, Suite, files_in
from glmkit.files import read_jsonl
from glmkit.records import Prompt
from glmkit.shapes import check_shape

FILES = {"en": "text_prompts.jsonl", "zh": "text_prompts_zh.jsonl"}
SHA256 = {
    "text_prompts.jsonl": "a2130769e72bd8560470a066114cdac87f80f1eb071ba6bc0f7033225a9be0d8",
    "text_prompts_zh.jsonl": "6512cd121ac093e8113e114d76eb2c0ce967c220b18e2049e1063554ce496758",
}
UNITS = {"en": "words, in lower case", "zh": "characters, without white space"}


class LongTextLine(TypedDict):
    """One line of a prompt file."""

    prompt_id: int
    prompt: str
    text: list[str]
    category: str


class LongText(Suite):
    """Score words (English) or characters (Chinese) of long texts: `language` is en or zh."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.file = FILES[language]
        self.metrics = {
            "text_score": {
                "direction": "higher",
                "definition": f"LongText-Bench text score ({language}): expected units that were read, counted with "
                f"repeats, anywhere in the image, / expected units. Units are {UNITS[language]}; only CJK, ASCII "
                "letters and digits and French accented letters count. Text that was not asked for is free.",
            },
            "word_precision": text.WORD_PRECISION,
        }
        self.official = OfficialProtocol(
            f"LongText-Bench ({language})",
            qwen2_5_vl.NAME,
            qwen2_5_vl.WEIGHTS,
            prompts=160,
            images_per_prompt=4,
            files={self.file: SHA256[self.file]},
        )

    def files(self, data: Path | None) -> list[Path]:
        """Give the file of the language."""
        fix = f"git clone https://github.com/X-Omni-Team/X-Omni, then --data X-Omni/textbench with {self.file}"
        return files_in(f"longtext-{self.language}", data, lambda folder: [folder / self.file], fix)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with their list of texts; the category is the split."""
        (path,) = files
        prompts = []
        for number, line in enumerate(read_jsonl(path), start=1):
            check_shape(line, LongTextLine, f"{path}, line {number}", fix="take the file as it is")
            name, texts = f"{line['prompt_id']:04d}", tuple(line["text"])
            prompts.append(Prompt(name, line["prompt"], texts, split=line["category"], language=self.language))
        return prompts

    def counts(self, prompt: Prompt, lines: Sequence[RecognizedLine], _image: Path) -> Counts:
        """Count the units that were read, of those expected."""
        answer = longtext_answer("\n".join(texts_of(lines)))
        return {
            "text_score": longtext_score(list(prompt.texts), answer, self.language),
            "word_precision": text.word_precision(prompt.texts, [answer], self.language),
        }
