"""text-render: our own prompts that ask for written words; scored by what OCR reads in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

import glmkit
from glmkit.evaluation.metrics import text
from glmkit.records import Prompt

PROMPTS = Path(glmkit.__file__).parents[1] / "benchmarks" / "text_render" / "prompts.jsonl"
METRICS = text.METRICS


def counts(prompt: Prompt, read: Sequence[str], picture: Path) -> dict[str, tuple[float, float]]:
    return text.counts(prompt.texts, read, prompt.language)


def references(prompt: Prompt) -> dict[str, Image]:
    return {}
