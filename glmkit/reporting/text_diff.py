"""The difference between the expected texts of an image and what OCR read, letter by letter.

Legend: E letters of one expected text, R letters of everything that was read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glmkit.evaluation.metrics.text import normalise

Kind = Literal["correct", "wrong", "missing", "extra"]
LetterPairs = Sequence[tuple[int | None, int | None]]  # positions in the expected and in the read text
Costs = NDArray[np.int64]

MIN_CORRECT_SHARE = 0.4  # of the letters of a text; below it a match is chance, and the text counts as missing
WRONG_COST, MISSING_COST, EXTRA_COST = 10, 11, 9  # of two equal explanations the one that loses no letter wins
LINE_BREAK_COST = 4  # of a line that ends within a text: texts are broken, but not where letters happen to fit
MAX_LETTER_PAIRS = 10**7  # of all expected and all read letters: 160 MB and half a second
MATCHED = "\0"  # stands for letters that an earlier text has matched; equals nothing


@dataclass(frozen=True)
class DiffSpan:
    """Neighbouring letters of one kind; `read` is empty for missing letters, `expected` for extra ones."""

    kind: Kind
    expected: str
    read: str


@dataclass(frozen=True)
class TextDiff:
    """One expected text beside what was read for it."""

    expected: str
    spans: tuple[DiffSpan, ...]

    def count_letters(self, kind: Kind) -> int:
        """Count the letters of one kind, spaces aside."""
        return sum(count_letters(span.read or span.expected) for span in self.spans if span.kind == kind)


@dataclass(frozen=True)
class MisreadWord:
    """A word that was read, but not as expected; of a word that nothing expects all letters are extra.

    Its letters are `start` to `stop` (exclusive) of the lines that were read, which a line break joins.
    """

    spans: tuple[DiffSpan, ...]
    start: int
    stop: int

    @property
    def expected(self) -> str:
        """Return the word as it should be; empty where none is expected."""
        return "".join(span.expected for span in self.spans)


@dataclass(frozen=True)
class ImageTextDiff:
    """All expected texts of an image, and the lines that belong to none of them; neither where they are `too_long`.

    `misread` holds the words that were read with a wrong, missing or extra letter, in the order of the texts, then the
    `unexpected_lines`.
    """

    texts: tuple[TextDiff, ...]
    unexpected_lines: tuple[str, ...]
    misread: tuple[MisreadWord, ...] = ()
    too_long: bool = False

    @property
    def perfect(self) -> bool:
        """Tell whether every letter and every space is as expected, and nothing else was read."""
        return (
            not self.too_long
            and not self.unexpected_lines
            and all(span.kind == "correct" for text in self.texts for span in text.spans)
        )

    @property
    def summary(self) -> str:
        """Return the difference as a sentence, for those who do not see the marks."""
        if self.too_long:
            return "Too long to be compared letter by letter; the file beside this page holds what was read"
        kinds: tuple[Kind, ...] = ("wrong", "missing", "extra")
        counts: dict[str, int] = {kind: sum(text.count_letters(kind) for text in self.texts) for kind in kinds}
        counts["extra"] += sum(map(count_letters, self.unexpected_lines))
        amounts = [f"{count} {kind}" for kind, count in counts.items() if count]
        if amounts:
            return f"Letters: {', '.join(amounts)}"
        return "Every letter as expected" if self.perfect else "Every letter as expected, but not every space"


def count_letters(text: str) -> int:
    """Count the letters of a text, spaces aside."""
    return sum(not letter.isspace() for letter in text)


def diff_texts(texts: Sequence[str], lines: Sequence[str]) -> ImageTextDiff:
    """Match each expected text with the lines that were read, the longest text first.

    Letters that the metrics take for equal (case, width, shape of quotes) are equal here. A text may be spread over
    several lines, or share a line with another text; a letter is matched by one text only. Texts of thousands of
    letters are not compared.
    """
    read = "\n".join(lines)
    if sum(map(len, texts)) * len(read) > MAX_LETTER_PAIRS:
        return ImageTextDiff((), (), too_long=True)
    unmatched = fold(read)
    diffs: dict[int, TextDiff] = {}
    misread: dict[int, list[MisreadWord]] = {}
    for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        text, folded = texts[index], fold(texts[index])
        pairs = align_letters(folded, unmatched)
        correct = sum(e is not None and r is not None and equal(folded[e], unmatched[r]) for e, r in pairs)
        if correct < MIN_CORRECT_SHARE * max(len(text), 1):
            diffs[index] = TextDiff(text, (DiffSpan("missing", text, ""),))
            continue
        diffs[index] = TextDiff(text, merge_spans(text, read, pairs))
        misread[index] = misread_words(text, read, pairs)
        matched = [r for _, r in pairs if r is not None]
        start, end = matched[0], matched[-1] + 1
        unmatched = unmatched[:start] + MATCHED * (end - start) + unmatched[end:]
    unexpected = unmatched_lines(read, unmatched)
    words = [word for index in sorted(misread) for word in misread[index]]
    words += [MisreadWord((DiffSpan("extra", "", line),), start, start + len(line)) for start, line in unexpected]
    return ImageTextDiff(
        tuple(diffs[index] for index in range(len(texts))), tuple(line for _, line in unexpected), tuple(words)
    )


def fold(text: str) -> str:
    """Normalise as the metrics do, letter by letter, so that the length stays."""
    return "".join(folded if len(folded := normalise(letter)) == 1 else letter for letter in text)


def equal(expected: str, read: str) -> bool:
    """Tell whether two folded letters are equal; all kinds of white space are."""
    return expected == read or (expected.isspace() and read.isspace())


def align_letters(expected: str, read: str) -> LetterPairs:
    """Find `expected` somewhere inside `read` at the lowest cost (Sellers 1980: free start, free end).

    Returns pairs of positions in reading order; None stands for a missing (read side) or extra (expected side) letter.
    An extra line break costs little; a space is never taken for a letter.
    """
    letters = np.array([ord(letter) for letter in read], dtype=np.int64)
    space = np.array([letter.isspace() for letter in read], dtype=bool)
    prohibitive = MISSING_COST * (len(expected) + 1)  # dearer than to leave the whole text out
    matched = prohibitive * (letters == ord(MATCHED))
    extra = np.where(letters == ord("\n"), LINE_BREAK_COST, EXTRA_COST) + matched  # no text spans another one
    extra_until = np.concatenate([[0], np.cumsum(extra)])
    costs = np.zeros((len(expected) + 1, len(read) + 1), dtype=np.int64)
    substitutions = np.empty((len(expected), len(read)), dtype=np.int64)
    for e, letter in enumerate(expected):
        if letter.isspace():
            substitutions[e] = np.where(space, 0, prohibitive)
        else:
            substitutions[e] = np.where(letters == ord(letter), 0, WRONG_COST + matched + prohibitive * space)
        costs[e + 1] = costs[e] + MISSING_COST
        costs[e + 1, 1:] = np.minimum(costs[e + 1, 1:], costs[e, :-1] + substitutions[e])
        costs[e + 1] = np.minimum.accumulate(costs[e + 1] - extra_until) + extra_until
    return trace_back(costs, substitutions, extra)


def trace_back(costs: Costs, substitutions: Costs, extra: Costs) -> LetterPairs:
    """Walk the cost matrix (E+1, R+1) from its cheapest end to its first row."""
    pairs: list[tuple[int | None, int | None]] = []
    e, r = costs.shape[0] - 1, int(costs[-1].argmin())
    while e > 0:
        if r > 0 and costs[e, r] == costs[e - 1, r - 1] + substitutions[e - 1, r - 1]:
            e, r = e - 1, r - 1
            pairs.append((e, r))
        elif costs[e, r] == costs[e - 1, r] + MISSING_COST:
            e -= 1
            pairs.append((e, None))
        else:
            assert costs[e, r] == costs[e, r - 1] + extra[r - 1]
            r -= 1
            pairs.append((None, r))
    return pairs[::-1]


def merge_spans(expected: str, read: str, pairs: LetterPairs) -> tuple[DiffSpan, ...]:
    """Join neighbouring letters of one kind."""
    spans: list[DiffSpan] = []
    for e, r in pairs:
        expected_text = "" if e is None else expected[e]
        read_text = "" if r is None else read[r].replace("\n", " ")
        kind = letter_kind(expected_text, read_text)
        if spans and spans[-1].kind == kind:
            last = spans.pop()
            expected_text, read_text = last.expected + expected_text, last.read + read_text
        spans.append(DiffSpan(kind, expected_text, read_text))
    return tuple(spans)


def letter_kind(expected: str, read: str) -> Kind:
    """Classify one letter; an extra space is correct."""
    if not expected:
        return "correct" if read.isspace() else "extra"
    if not read:
        return "missing"
    return "correct" if equal(fold(expected), fold(read)) else "wrong"


def misread_words(expected: str, read: str, pairs: LetterPairs) -> list[MisreadWord]:
    """Return the words of one text, split at spaces that were read, that were read but not as expected."""
    words: list[list[tuple[int | None, int | None]]] = [[]]
    for e, r in pairs:
        if r is not None and read[r].isspace() and (e is None or expected[e].isspace()):
            words.append([])
        else:
            words[-1].append((e, r))
    misread = []
    for word in words:
        positions = [r for _, r in word if r is not None]
        spans = merge_spans(expected, read, word)
        if positions and any(span.kind != "correct" for span in spans):
            misread.append(MisreadWord(spans, positions[0], positions[-1] + 1))
    return misread


def unmatched_lines(read: str, unmatched: str) -> list[tuple[int, str]]:
    """Return the stretches of `read` that no text has matched, one for each line and gap, with where they start."""
    rest = "".join("\n" if mask == MATCHED else letter for letter, mask in zip(read, unmatched, strict=True))
    return [(match.start(), match[0].rstrip()) for match in re.finditer(r"[^\s][^\n]*", rest)]
