"""text-render: our own prompts that ask for written words; scored by what OCR reads in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import glmkit
from glmkit.evaluation.metrics import text
from glmkit.evaluation.suite import Counts, OwnSuite
from glmkit.records import Prompt

PROMPTS = Path(glmkit.__file__).parents[1] / "benchmarks" / "text_render" / "prompts.jsonl"


def counts(prompt: Prompt, read: Sequence[str], picture: Path) -> Counts:
    return text.counts(prompt.texts, read, prompt.language)


SUITE = OwnSuite(PROMPTS, text.METRICS, counts)
