"""Read text against expected text: word accuracy, NED (a similarity) and CER.

Both sides are normalised first (`normalise`), so case, width and the shape of quotes and dashes do not count. Each
function of one image gives (numerator, denominator), so that images, prompts and splits pool as sum / sum.

NED and CER ignore white space, which OCR joins and drops, and the order in which OCR found the texts: `assign` pairs
each expected text with the run of read pieces that resembles it most.

The public benchmarks compare in their own ways: `cvtg.py`, `longtext.py`, `oneig.py`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import LCSseq, Levenshtein
from rapidfuzz.process import cdist

# Languages written without spaces: their units are characters.
UNSPACED = frozenset({"zh", "ja", "th"})
FOUND = 0.5  # similarity from which what was read is the text, misspelt
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "–": "-", "—": "-"})

METRICS: Mapping[str, Mapping[str, str]] = {
    "word_accuracy": {
        "direction": "higher",
        "definition": "glmkit-wa-1: expected words that were read, counted with repeats (multiset), anywhere in the "
        "image, / expected words. Words are split at white space and keep their punctuation (Chinese and other "
        "unspaced languages: characters). NFKC, case and quote shapes folded. Text that was not asked for is free.",
    },
    "ned": {
        "direction": "higher",
        "definition": "glmkit-ned-1: mean over expected texts of 1 - Levenshtein / length of the longer, without white "
        "space, against the run of consecutively read words assigned to the text (best pairs first, each word used "
        "once; no run: 0). A similarity in 0..1. Text that was not asked for is free.",
    },
    "cer": {
        "direction": "lower",
        "definition": "glmkit-cer-1: edits / expected characters, without white space, with the same assignment as "
        "glmkit-ned-1; a text without a run costs its length, and so do read words without a text. Can exceed 1.",
    },
}
CHARACTER_ACCURACY = {
    "direction": "higher",
    "definition": "glmkit-ca-1: expected characters that were read in the order of their text (longest common "
    "subsequence with the run that glmkit-ned-1 assigns to it) / expected characters, without white space. The correct "
    "rate of character recognition, (N - substitutions - deletions) / N. Characters that were not asked for are free.",
}

WORD_PRECISION = {
    "direction": "higher",
    "definition": "glmkit-wp-1: read words that were expected, counted with repeats (multiset) / read words: what is "
    "left to 1 was not asked for, misspelt or written again. Words are those of glmkit-wa-1 (languages without spaces: "
    "characters). An image in which nothing was read has none.",
}


class Match(NamedTuple):
    """Assign expected text number `text` to the read pieces `start` to `stop` (exclusive)."""

    text: int
    start: int
    stop: int
    similarity: float


def normalise(text: str) -> str:
    """Apply NFKC, fold case, quotes and dashes, collapse white space."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_PLAIN).split())


def units(texts: Sequence[str], language: str) -> list[str]:
    """Split texts into words; in unspaced languages into characters without white space."""
    words = [word for text in texts for word in normalise(text).split()]
    return list("".join(words)) if language in UNSPACED else words


def pieces(lines: Sequence[str]) -> list[str]:
    """Split lines, in reading order, into normalised pieces without white space: what `assign` counts in."""
    return units(lines, "en")


def counts(expected: Sequence[str], read: Sequence[str], language: str) -> dict[str, tuple[float, float]]:
    """Count (numerator, denominator) of each metric for one image.

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


def word_precision(expected: Sequence[str], read: Sequence[str], language: str) -> tuple[int, int]:
    """Count the read words of one image that were expected, and all that were read."""
    found = Counter(units(read, language))
    return (Counter(units(expected, language)) & found).total(), found.total()


def unrequested(expected: Sequence[str], read: Sequence[str]) -> tuple[int, int]:
    """Count the characters of read words that stand for no expected text, and the expected ones, for one image.

    A misspelt text stands for its own, from a similarity of FOUND on; one that is there twice is unrequested once.
    """
    words = pieces(read)
    taken = {
        number
        for match in assign(expected, words)
        if match.similarity >= FOUND
        for number in range(match.start, match.stop)
    }
    extra = sum(len(_squeeze(word)) for number, word in enumerate(words) if number not in taken)
    return extra, sum(len(_squeeze(text)) for text in expected)


def characters_in_order(expected: Sequence[str], read: Sequence[str]) -> tuple[int, int]:
    """Count the characters that were read in the order of their text, and all that were expected, for one image."""
    texts, words = [_squeeze(text) for text in expected], pieces(read)
    runs = [(texts[match.text], "".join(words[match.start : match.stop])) for match in assign(expected, words)]
    return sum(LCSseq.similarity(text, run) for text, run in runs), sum(map(len, texts))


def assign(expected: Sequence[str], words: Sequence[str]) -> list[Match]:
    """Pair expected texts with disjoint runs of consecutive read pieces, the most similar pair first.

    Ties go to the longer text, then to the earlier text and the earlier, shorter run. A run of several pieces has at
    most twice the characters of its text. A text stays without a run only when all pieces are taken.
    """
    texts = [_squeeze(text) for text in expected]
    runs = _runs(words, 2 * max(map(len, texts), default=0))
    if not runs or not texts:
        return []
    strings = [run for _, _, run in runs]
    similarities = cdist(texts, strings, scorer=Levenshtein.normalized_similarity, dtype=np.float64)
    starts, stops, sizes = (np.array(column) for column in zip(*((a, b, len(run)) for a, b, run in runs), strict=True))
    lengths = np.array([len(text) for text in texts])
    text, run = np.nonzero((stops == starts + 1) | (sizes <= 2 * lengths[:, None]))
    best_first = np.lexsort((stops[run], starts[run], text, -lengths[text], -similarities[text, run]))
    chosen: dict[int, Match] = {}
    free = np.ones(len(words), dtype=bool)
    for index, column in zip(text[best_first].tolist(), run[best_first].tolist(), strict=True):
        start, stop, _ = runs[column]
        if index not in chosen and free[start:stop].all():
            chosen[index] = Match(index, start, stop, float(similarities[index, column]))
            free[start:stop] = False
            if len(chosen) == len(texts):
                break
    return [chosen[index] for index in sorted(chosen)]


def _runs(words: Sequence[str], longest: int) -> list[tuple[int, int, str]]:
    """List (start, stop, joined pieces) of all single pieces, and of longer runs of at most `longest` characters."""
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
    """Normalise, without white space."""
    return normalise(text).replace(" ", "")
