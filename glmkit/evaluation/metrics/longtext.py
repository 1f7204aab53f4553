"""The text score of LongText-Bench (X-Omni, arXiv 2507.22058), as its `summary_scores.py` computes it.

The same OCR output gives the same number; what looks odd here is odd there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# LongText-Bench and OneIG-Bench compare these characters: basic CJK, ASCII letters and digits, French accents.
CJK = "\u4e00-\u9fa5"
_OTHER_CHARACTERS = re.compile(rf"[^{CJK}a-zA-Z0-9àâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ\s]")


def compared_characters(text: str) -> str:
    """Drop all characters that the benchmarks do not compare; white space stays."""
    return _OTHER_CHARACTERS.sub("", text)


def matched_units(expected: Iterable[str], read: Iterable[str]) -> tuple[int, int]:
    """Count the multiset intersection, and the expected units."""
    wanted = Counter(expected)
    return (wanted & Counter(read)).total(), wanted.total()


def longtext_normalise(text: str, language: str) -> str:
    """Normalise English to lower case with single spaces, Chinese to no white space."""
    words = compared_characters(text).split()
    return " ".join(words).lower() if language == "en" else "".join(words)


def longtext_score(texts: list[str], ocr_text: str, language: str) -> tuple[int, int]:
    """Count (matched, total) units of one image: words in English, characters in Chinese, with repeats.

    `texts` are joined by spaces; `language` is en or zh. The benchmark's score is sum of matched / sum of total.
    """
    expected = longtext_normalise(" ".join(texts), language)
    read = longtext_normalise(ocr_text, language)
    return matched_units(expected.split(), read.split()) if language == "en" else matched_units(expected, read)


def longtext_answer(text: str) -> str:
    """Remove the sentence for an empty image from the answer of the OCR language model, as LongText-Bench does."""
    return text.replace("No text recognized.", "")
