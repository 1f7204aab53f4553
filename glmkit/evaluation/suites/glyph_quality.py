"""glyph-quality: malformed characters, which OCR mends as it reads, by a judge that was trained to see them.

The judge is a TextPecker (hub: CIawevy/TextPecker-8B-Qwen3VL, or -InternVL3): `--judge transformers:FOLDER`, or behind
an endpoint. Any other judge answers, too, and misses most. Prompts are those of text-render, or those of a file in the
format of `glmkit generate --prompts` (`--data FILE`), with `texts` or with those in quotes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.glyphs import FIELD, quality, semantic, transcription
from glmkit.evaluation.suites import text_render
from glmkit.evaluation.suites.shared.own_prompts import OwnPrompts
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.records import Prompt

# Our wording; the marks and the field are those that the judge was trained with.
QUESTION = (
    "A model generated this image. Copy all text that can be seen in it. Write <#> for each Chinese character or "
    "single English letter that is malformed and cannot be recognized, for instance with strokes that are missing, "
    "superfluous or distorted, and <###> for each single English word of that kind. Answer with JSON of this form "
    "alone:\n"
    f'{{"{FIELD}": "the text, with these marks"}}'
)
MAX_TOKENS = 2048
MESSAGE = Message("text", QUESTION, (QUESTION,), max_tokens=MAX_TOKENS)
METRICS: Mapping[str, Mapping[str, str]] = {
    "glyph_quality": {
        "direction": "higher",
        "definition": "TextPecker's quality score with our wording: 1 - marks of malformed characters / characters "
        "that are not blank, marks included, in what the judge copied; 0 where it copied nothing; mean over images.",
    },
    "glyph_semantic": {
        "direction": "higher",
        "definition": "TextPecker's semantic score with our wording: 1 - GNED of copied and expected words, in lower "
        "case, Chinese by characters; text that was not asked for costs as much as missing text; mean over images.",
    },
}


class GlyphQuality(QuestionSuite):
    """Let a judge copy the text of each image, with marks. An answer that is no copy is an error of its image."""

    asking = "glyph-quality-1"
    metrics = METRICS
    official = None

    def files(self, data: Path | None) -> list[Path]:
        """Give the prompts of text-render, or the user's file."""
        if data is None:
            return text_render.SUITE.files(None)
        if not data.is_file():
            raise UserError(f"{data} is no file with prompts", fix="--data FILE.jsonl, or leave it out for text-render")
        return OwnPrompts(from_quotes=True).files(data)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with their texts."""
        ours = list(files) == text_render.SUITE.files(None)
        return text_render.SUITE.read(files) if ours else OwnPrompts(from_quotes=True).read(files)

    def messages(self, _prompt: Prompt) -> tuple[Message, ...]:
        """Ask the same of each image."""
        return (MESSAGE,)

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> dict[str, tuple[float, float]]:
        """Score the copy; UnreadableAnswerError when there is none."""
        copied = transcription(answers[MESSAGE.id])
        return {"glyph_quality": (quality(copied), 1), "glyph_semantic": (semantic(copied, prompt.texts), 1)}


SUITE = GlyphQuality()
