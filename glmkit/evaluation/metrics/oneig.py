"""The text scores of OneIG-Bench (arXiv 2506.07977), as its `text_score.py` and `text_utils.py` compute them, and the
total of its alignment (`alignment_score.py`).

The same OCR output gives the same number; what looks odd here is odd there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from glmkit.evaluation.metrics.chains import Chain, Step, mean, pool
from glmkit.evaluation.metrics.longtext import CJK, compared_characters, matched_units

MAX_EDITS: Mapping[str, int] = {"en": 100, "zh": 50}
_CHINESE = re.compile(f"[{CJK}]")


class OneigScore(NamedTuple):
    """Score one image: edits from the whole expected to the whole read text, and units matched of those expected."""

    edits: int
    matched: int
    total: int


class OneigResult(NamedTuple):
    """Hold mean edits, share of images without an edit, matched / expected units, and the score they make."""

    ed: float
    cr: float
    wac: float
    score: float


def oneig_normalise(text: str) -> str:
    """Drop white space when a compared character is Chinese, otherwise leave single spaces; case stays."""
    compared = compared_characters(text)
    return ("" if _CHINESE.search(compared) else " ").join(compared.split())


def oneig_text_score(text: str, ocr_text: str) -> OneigScore:
    """Score one image against the cell `text_content` of the benchmark, a Python list written out.

    The cell is compared as it stands: an escaped line break in it leaves the letter n. Units are characters when the
    expected text holds a Chinese one, otherwise words; each side is normalised by its own characters.
    """
    expected, read = oneig_normalise(text), oneig_normalise(ocr_text)
    edits = Levenshtein.distance(read, expected)
    if _CHINESE.search(expected):
        return OneigScore(edits, *matched_units(expected, read))
    return OneigScore(edits, *matched_units(expected.split(), read.split()))


def oneig_answer(text: str) -> str:
    """Remove the two phrases from the answer of the OCR language model that OneIG-Bench removes."""
    return text.replace("addCriterion", "").replace("No text recognized.", "")


def oneig_text_aggregate(scores: Sequence[OneigScore], language: str) -> OneigResult:
    """Calculate the four numbers of the benchmark's table over one or more images; `language` is en or zh."""
    ed = sum(score.edits for score in scores) / len(scores)
    cr = sum(score.edits == 0 for score in scores) / len(scores)
    wac = sum(score.matched for score in scores) / sum(score.total for score in scores)
    return OneigResult(ed, cr, wac, float(oneig_combine(ed, cr, wac, MAX_EDITS[language])))


def oneig_combine(
    ed: float | NDArray[np.float64], cr: float | NDArray[np.float64], wac: float | NDArray[np.float64], most: int
) -> NDArray[np.float64]:
    """Calculate 1 - min(most, ED) (1 - CR) (1 - WAC) / most, for one set of images or for arrays of resampled ones."""
    score: NDArray[np.float64] = 1 - np.minimum(most, ed) * (1 - np.asarray(cr)) * (1 - np.asarray(wac)) / most
    return score


def _combine_pooled(ratios: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    ed, cr, wac = np.moveaxis(ratios, -1, 0)
    return oneig_combine(ed, cr, wac, most)


CHAINS: Mapping[str, Chain] = {
    **{
        f"oneig_text_{language}": Chain(
            ("ed", "cr", "wac"), (Step(pool, by=("group",)), Step(partial(_combine_pooled, most=most)))
        )
        for language, most in MAX_EDITS.items()
    },
    **{
        f"oneig_{name}": Chain((name,), (Step(mean, ("prompt",)), Step(mean)), is_everywhere=False)
        for name in ("diversity", "style")
    },
    # Questions of an image, then images of a prompt, then prompts.
    "oneig_alignment": Chain(
        ("alignment",), (Step(mean, ("prompt", "image")), Step(mean, ("prompt",)), Step(mean)), is_everywhere=False
    ),
}
