"""Read text against expected text: word accuracy, NED (a similarity) and CER.

Both sides are normalised first (`normalise`), so case, width and the shape of quotes and dashes do not count. Each
function of one picture gives (numerator, denominator), so that pictures, prompts and splits pool as sum / sum.

NED and CER ignore white space, which OCR joins and drops, and the order in which OCR found the texts: `assign` pairs
each expected text with the run of read pieces that resembles it most.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

# Languages written without spaces: their units are characters.
UNSPACED = frozenset({"zh", "ja", "th"})
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "–": "-", "—": "-"})

METRICS: Mapping[str, Mapping[str, str]] = {
    "word_accuracy": {
        "direction": "higher",
        "definition": "glmkit-wa-1: expected words that were read, counted with repeats (multiset), anywhere in the "
        "picture, / expected words. Words are split at white space and keep their punctuation (Chinese and other "
        "unspaced languages: characters). NFKC, case and quote shapes folded. Text that nobody asked for is free.",
    },
    "ned": {
        "direction": "higher",
        "definition": "glmkit-ned-1: mean over expected texts of 1 - Levenshtein / length of the longer, without white "
        "space, against the run of consecutively read words assigned to the text (best pairs first, each word used "
        "once; no run: 0). A similarity in 0..1. Text that nobody asked for is free.",
    },
    "cer": {
        "direction": "lower",
        "definition": "glmkit-cer-1: edits / expected characters, without white space, with the same assignment as "
        "glmkit-ned-1; a text without a run costs its length, and so do read words without a text. Can exceed 1.",
    },
}


class Match(NamedTuple):
    """Expected text number `text` belongs to the read pieces `start` to `stop` (exclusive)."""

    text: int
    start: int
    stop: int
    similarity: float


def normalise(text: str) -> str:
    """NFKC, case folded, plain quotes and dashes, white space collapsed."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_PLAIN).split())


def units(texts: Sequence[str], language: str) -> list[str]:
    """The words of all texts; in unspaced languages their characters without white space."""
    words = [word for text in texts for word in normalise(text).split()]
    return list("".join(words)) if language in UNSPACED else words


def pieces(lines: Sequence[str]) -> list[str]:
    """Read lines, in reading order, as normalised pieces without white space: what `assign` counts in."""
    return units(lines, "en")


def counts(expected: Sequence[str], read: Sequence[str], language: str) -> dict[str, tuple[float, float]]:
    """(numerator, denominator) of each metric for one picture.

    `expected` holds at least one visible character; `read` holds the lines in reading order, possibly none.
    """
    wanted = Counter(units(expected, language))
    hits = sum((wanted & Counter(units(read, language))).values())
    texts, words = [_squeeze(text) for text in expected], pieces(read)
    matches = assign(expected, words)
    edits = sum(map(len, texts)) + sum(map(len, words))
    for match in matches:
        run = "".join(words[match.start : match.stop])
        edits += Levenshtein.distance(texts[match.text], run) - len(texts[match.text]) - len(run)
    return {
        "word_accuracy": (hits, wanted.total()),
        "ned": (sum(match.similarity for match in matches), len(texts)),
        "cer": (edits, sum(map(len, texts))),
    }


def assign(expected: Sequence[str], words: Sequence[str]) -> list[Match]:
    """Pair expected texts with disjoint runs of consecutive read pieces, the most similar pair first.

    Ties go to the longer text, then to the earlier text and the earlier, shorter run. Runs of several pieces have at
    most twice the characters of the text; pairs that share nothing (similarity 0) are left out.
    """
    texts = [_squeeze(text) for text in expected]
    runs = _runs(words, 2 * max(map(len, texts), default=0))
    if not runs or not texts:
        return []
    strings = [run for _, _, run in runs]
    similarities = cdist(texts, strings, scorer=Levenshtein.normalized_similarity, dtype=np.float64)
    pairs = [
        Match(text, start, stop, float(similarities[text, column]))
        for text in range(len(texts))
        for column, (start, stop, run) in enumerate(runs)
        if similarities[text, column] > 0 and (stop == start + 1 or len(run) <= 2 * len(texts[text]))
    ]
    pairs.sort(key=lambda pair: (-pair.similarity, -len(texts[pair.text]), pair))
    chosen: list[Match] = []
    for pair in pairs:
        if all(pair.text != other.text and (pair.stop <= other.start or other.stop <= pair.start) for other in chosen):
            chosen.append(pair)
            if len(chosen) == len(texts):
                break
    return sorted(chosen)


def _runs(words: Sequence[str], longest: int) -> list[tuple[int, int, str]]:
    """(start, stop, joined pieces) of every single piece and of every longer run of at most `longest` characters."""
    runs = []
    for start in range(len(words)):
        run = ""
        for stop in range(start + 1, len(words) + 1):
            run += words[stop - 1]
            if stop > start + 1 and len(run) > longest:
                break
            runs.append((start, stop, run))
    return runs


def _squeeze(text: str) -> str:
    """Normalised, without white space."""
    return normalise(text).replace(" ", "")
