"""The text scores of public benchmarks, as their own code computes them: the same OCR output gives the same number.

CVTG-2K (Du et al. 2025, arXiv 2503.23461; `unified_metrics_eval.py`), LongText-Bench (X-Omni, `summary_scores.py`) and
the text part of OneIG-Bench (`text_score.py`, `text_utils.py`). What looks odd here is odd there.

"NED" of CVTG-2K is a similarity: higher is better. These functions know lines of text only; which OCR engine read them
decides whether a number may be called official (`glmkit.evaluation.suites.shared.base`).
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

# What LongText-Bench and OneIG-Bench keep of a text: basic CJK, ASCII letters and digits, French accents, white space.
_CJK = "\u4e00-\u9fa5"
_KEPT = f"{_CJK}a-zA-Z0-9àâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ"
_DROPPED = re.compile(rf"[^{_KEPT}\s]")
_CHINESE = re.compile(f"[{_CJK}]")

ONEIG_MOST_EDITS: Mapping[str, int] = {"en": 100, "zh": 50}


class WordScore(NamedTuple):
    """One word that the prompt asks for: whether it was read literally, and how similar the nearest word is (0..1)."""

    word: str
    hit: bool
    similarity: float


class CvtgScore(NamedTuple):
    """Word accuracy (hits / words) and NED (mean similarity) over `words` words; both 0 when there are none."""

    word_accuracy: float
    ned: float
    words: int


class OneigScore(NamedTuple):
    """One image: edits from the whole expected text to the whole read text, and units matched of those expected."""

    edits: int
    matched: int
    total: int


class OneigResult(NamedTuple):
    """Mean edits, share of images without an edit, matched / expected units, and the score they make."""

    ed: float
    cr: float
    wac: float
    score: float


def cvtg_words(prompt: str) -> list[str]:
    """The words between each pair of ASCII single quotes on one line of the prompt, in lower case, in order."""
    return [word for span in re.findall("'(.*?)'", prompt) for word in span.lower().split()]


def cvtg_scores(prompt: str, ocr_lines: list[str]) -> list[WordScore]:
    """One score a word of the prompt. A word of the image may serve several times, and extra words cost nothing.

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


def cvtg_aggregate(areas: Mapping[str, Sequence[WordScore]]) -> dict[str, CvtgScore]:
    """The scores of each area, and under "all" those of all words pooled (micro average)."""
    pooled = [score for scores in areas.values() for score in scores]
    return {area: _cvtg_mean(scores) for area, scores in {**areas, "all": pooled}.items()}


def _cvtg_mean(scores: Sequence[WordScore]) -> CvtgScore:
    if not scores:
        return CvtgScore(0.0, 0.0, 0)
    hits = sum(score.hit for score in scores)
    return CvtgScore(hits / len(scores), float(np.mean([score.similarity for score in scores])), len(scores))


def longtext_normalise(text: str, language: str) -> str:
    """English: what is kept, in lower case with single spaces. Chinese: what is kept, without white space."""
    kept = _DROPPED.sub("", text)
    return " ".join(kept.split()).lower() if language == "en" else "".join(kept.split())


def longtext_score(texts: list[str], ocr_text: str, language: str) -> tuple[int, int]:
    """(matched, total) units of one image: words in English, characters in Chinese, counted with repeats.

    `texts` are joined by spaces; `language` is en or zh. The benchmark's score is sum of matched / sum of total.
    """
    expected = longtext_normalise(" ".join(texts), language)
    read = longtext_normalise(ocr_text, language)
    return _matched(expected.split(), read.split()) if language == "en" else _matched(expected, read)


def longtext_answer(text: str) -> str:
    """The answer of the OCR language model without its sentence for an empty image, as LongText-Bench cleans it."""
    return text.replace("No text recognized.", "")


def oneig_normalise(text: str) -> str:
    """Kept characters: without white space when one of them is Chinese, otherwise with single spaces; same case."""
    kept = _DROPPED.sub("", text)
    return ("" if _CHINESE.search(kept) else " ").join(kept.split())


def oneig_text_score(text: str, ocr_text: str) -> OneigScore:
    """One image against the cell `text_content` of the benchmark, a Python list written out.

    The cell is compared as it stands: an escaped line break in it leaves the letter n. Units are characters when the
    expected text holds a Chinese one, otherwise words; each side is normalised by its own characters.
    """
    expected, read = oneig_normalise(text), oneig_normalise(ocr_text)
    edits = Levenshtein.distance(read, expected)
    if _CHINESE.search(expected):
        return OneigScore(edits, *_matched(expected, read))
    return OneigScore(edits, *_matched(expected.split(), read.split()))


def oneig_answer(text: str) -> str:
    """The answer of the OCR language model without the two phrases that OneIG-Bench removes."""
    return text.replace("addCriterion", "").replace("No text recognized.", "")


def oneig_text_aggregate(scores: Sequence[OneigScore], language: str) -> OneigResult:
    """The four numbers of the benchmark's table over one or more images; `language` is en or zh."""
    ed = sum(score.edits for score in scores) / len(scores)
    cr = sum(score.edits == 0 for score in scores) / len(scores)
    wac = sum(score.matched for score in scores) / sum(score.total for score in scores)
    return OneigResult(ed, cr, wac, float(oneig_combine(ed, cr, wac, ONEIG_MOST_EDITS[language])))


def oneig_combine(
    ed: float | NDArray[np.float64], cr: float | NDArray[np.float64], wac: float | NDArray[np.float64], most: int
) -> NDArray[np.float64]:
    """1 - min(most, ED) (1 - CR) (1 - WAC) / most, for one set of images or for arrays of resampled ones."""
    return 1 - np.minimum(most, ed) * (1 - np.asarray(cr)) * (1 - np.asarray(wac)) / most


class Derived(NamedTuple):
    """A metric that is a formula of pooled ratios, not itself one: the ratios by name, and the formula for arrays."""

    parts: tuple[str, ...]
    formula: Callable[..., NDArray[np.float64]]


DERIVED: Mapping[str, Derived] = {
    f"oneig_text_{language}": Derived(("ed", "cr", "wac"), partial(oneig_combine, most=most))
    for language, most in ONEIG_MOST_EDITS.items()
}


def _matched(expected: Iterable[str], read: Iterable[str]) -> tuple[int, int]:
    """Size of the multiset intersection, and the number of expected units."""
    wanted = Counter(expected)
    return (wanted & Counter(read)).total(), wanted.total()
