"""The text part of OneIG-Bench (Chang et al. 2025, arXiv 2506.07977): 200 prompts per language, 4 images each.

Prompts: `text_content.csv` and `text_content_zh.csv`, repository OneIG-Bench/OneIG-Benchmark, folder scripts/text.
Images: `<id>.webp` (or another format), four in a grid of 2 x 2 of which missing ones are black. The benchmark cuts
the grid and saves each image as JPEG before OCR, and so does `given_images`. Single images,
`<id>_<seed>.png`, are taken as they are; their scores are not official.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from glmkit.errors import UserError
from glmkit.evaluation.metrics import text
from glmkit.evaluation.metrics.oneig import MAX_EDITS, oneig_answer, oneig_text_aggregate, oneig_text_score
from glmkit.evaluation.ocr.engines import qwen2_5_vl
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, Suite, files_in
from glmkit.evaluation.suites.shared.layouts import ImageFiles
from glmkit.inputs.records import read_csv
from glmkit.records import Prompt

FILES = {"en": ("text_content.csv", "prompt_en"), "zh": ("text_content_zh.csv", "prompt_cn")}
SHA256 = {
    "text_content.csv": "ffbf0b588c617b77caf1e9a733496ff5b4704b6534df5fba13201a83f21e0512",
    "text_content_zh.csv": "6250b3be96e9c4fd4c9cb858dd36b5b2dc4fc8fccb8e4ed0317f5da392db9a1a",
}
LONG_TEXT_WORDS = 60  # above it the benchmark's OCR may answer with twice as many tokens


class OneigText(Suite):
    """Score edit distance, completion rate and word accuracy: `language` is en or zh."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.file, self.column = FILES[language]
        most = MAX_EDITS[language]
        letters = "Only CJK, ASCII letters and digits and French accented letters count; case does."
        self.metrics = {
            f"oneig_text_{language}": {
                "direction": "higher",
                "definition": f"OneIG-Bench text score ({language}): 1 - min({most}, ED) (1 - CR) (1 - WAC) / {most}, "
                "of the pooled ED, CR and WAC; of one image in the gallery.",
            },
            "ed": {
                "direction": "lower",
                "definition": f"OneIG-Bench ED: mean over images of the Levenshtein distance of all that was read "
                f"to all that was expected. {letters}",
            },
            "cr": {"direction": "higher", "definition": "OneIG-Bench CR: share of images with ED 0."},
            "wac": {
                "direction": "higher",
                "definition": "OneIG-Bench WAC: expected units that were read, counted with repeats, / expected units: "
                f"characters where the expected text holds Chinese, otherwise words. {letters}",
            },
            "word_precision": text.WORD_PRECISION,
        }
        self.official = OfficialProtocol(
            f"OneIG-Bench text ({language})",
            qwen2_5_vl.NAME,
            qwen2_5_vl.WEIGHTS,
            prompts=200,
            images_per_prompt=4,
            files={self.file: SHA256[self.file]},
            grids=True,
        )

    def files(self, data: Path | None) -> list[Path]:
        """Give the file of the language."""
        fetch = "git clone https://github.com/OneIG-Bench/OneIG-Benchmark"
        fix = f"{fetch}, then --data OneIG-Benchmark/scripts/text with {self.file}"
        return files_in(f"oneig-text-{self.language}", data, lambda folder: [folder / self.file], fix)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the table; the score compares the cell of the texts, which holds a list, as it stands."""
        (path,) = files
        wanted = ("id", self.column, "text_content")
        lines = read_csv(path)
        broken = next((line for line in lines if not all(line.get(name) for name in wanted)), None)
        if broken is not None or not lines:
            what = f"{path} needs lines with the columns {', '.join(wanted)}"
            raise UserError(what, found=broken or "no lines", fix="take the file as it is")
        return [
            Prompt(
                line["id"],
                line[self.column],
                _texts(path, line["text_content"]),
                language=self.language,
                ground_truth=line["text_content"],
            )
            for line in lines
        ]

    def counts(self, prompt: Prompt, lines: Sequence[RecognizedLine], _image: Path) -> Counts:
        """Score one image; a set of images has the score of its pooled ED, CR and WAC."""
        answer = oneig_answer("\n".join(texts_of(lines)))
        score = oneig_text_score(prompt.ground_truth, answer)
        return {
            f"oneig_text_{self.language}": (oneig_text_aggregate([score], self.language).score, 1),
            "ed": (score.edits, 1),
            "cr": (score.edits == 0, 1),
            "wac": (score.matched, score.total),
            "word_precision": text.word_precision(prompt.texts, [answer], self.language),
        }

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find grids of four named after the id, and single images whose names hold a seed, too."""
        return layouts.grids_by_name(folder, prompts)

    def image_names(self, prompt: Prompt) -> str:
        """Say how the images of a prompt should be called."""
        return f"{prompt.id}.webp (a 2 x 2 grid) or {prompt.id}_0.png"

    def max_answer_tokens(self, prompt: Prompt) -> int:
        """Follow the benchmark's own code, which counts the words of the cell."""
        return 256 if len(prompt.ground_truth.split()) > LONG_TEXT_WORDS else 128


def _texts(path: Path, cell: str) -> tuple[str, ...]:
    """Read the list in the cell, for people; the score compares the cell itself."""
    try:
        texts = ast.literal_eval(cell)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        texts = None
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not is_list or not oneig_text_score(cell, "").total:
        raise UserError(f"{path}: text_content is not a list of texts", found=cell[:80], fix="take the file as it is")
    return tuple(texts)
