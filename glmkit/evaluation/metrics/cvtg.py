"""The text scores of CVTG-2K (Du et al. 2025, arXiv 2503.23461), as its `unified_metrics_eval.py` computes them.

The same OCR output gives the same number; what looks odd here is odd there. "NED" is a similarity: higher is better.
These functions know lines of text only; which OCR engine recognized them decides whether a number may be called
official (`glmkit.evaluation.suites.shared.base`).
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


class WordScore(NamedTuple):
    """Score one word that the prompt asks for: was it read literally, how similar is the nearest word (0..1)."""

    word: str
    hit: bool
    similarity: float


def cvtg_words(prompt: str) -> list[str]:
    """Find the words between each pair of ASCII single quotes on one line of the prompt, in lower case, in order."""
    return [word for span in re.findall("'(.*?)'", prompt) for word in span.lower().split()]


def cvtg_scores(prompt: str, ocr_lines: list[str]) -> list[WordScore]:
    """Score each word of the prompt. A word of the image may serve several times, and extra words cost nothing.

    The nearest word is the one that `difflib.get_close_matches` ranks first (its ties go to the greater string), and
    its similarity 1 - Levenshtein / (length of the longer + 0.00001).
    """
    read = [word for line in ocr_lines for word in line.lower().split()] or [""]
    scores = []
    for word in cvtg_words(prompt):
        nearest = difflib.get_close_matches(word, read, n=1, cutoff=0)[0]
        similarity = 1 - Levenshtein.distance(word, nearest) / (max(len(word), len(nearest)) + 1e-5)
        scores.append(WordScore(word, word in read, similarity))
    return scores
