"""Which letters of an expected text the reader found, and which are wrong, missing or extra.

Legend: E letters of one expected text, R letters of everything that was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glmkit.evaluation.metrics.text import normalise

MIN_FOUND = 0.4  # below this share of right letters a match is chance, and the text counts as not found
WRONG, MISSING, EXTRA = 10, 11, 9  # costs; of two equal explanations the one that loses no letter wins
LINE_END = 4  # cost of a line that ends within a text: texts are broken, but not where letters happen to fit
CLAIMED = "\0"  # stands for letters that an earlier text has taken; matches nothing


@dataclass(frozen=True)
class Piece:
    """A stretch of letters with one fate. `kind` is right, wrong, missing or extra.

    `read` is empty for missing letters, `expected` is empty for extra ones.
    """

    kind: str
    expected: str
    read: str


@dataclass(frozen=True)
class Marked:
    """One expected text beside what was read for it."""

    expected: str
    pieces: tuple[Piece, ...]

    @property
    def found(self) -> bool:
        return any(piece.kind == "right" for piece in self.pieces)

    def letters(self, kind: str) -> int:
        """How many letters (spaces not counted) have this fate."""
        chosen = [piece.read or piece.expected for piece in self.pieces if piece.kind == kind]
        return sum(not letter.isspace() for text in chosen for letter in text)


@dataclass(frozen=True)
class Marking:
    """All expected texts of an image, and the lines that belong to none of them."""

    texts: tuple[Marked, ...]
    unexpected: tuple[str, ...]

    @property
    def perfect(self) -> bool:
        return not self.unexpected and all(piece.kind == "right" for text in self.texts for piece in text.pieces)

    @property
    def in_words(self) -> str:
        """The marking as a sentence, for those who do not see the marks."""
        counts = {kind: sum(text.letters(kind) for text in self.texts) for kind in ("wrong", "missing", "extra")}
        counts["extra"] += sum(not letter.isspace() for line in self.unexpected for letter in line)
        found = [f"{count} {kind}" for kind, count in counts.items() if count]
        if found:
            return f"Letters: {', '.join(found)}"
        return "Every letter as expected" if self.perfect else "Every letter as expected, but not every space"


def mark(texts: Sequence[str], lines: Sequence[str]) -> Marking:
    """Find each expected text in the lines that were read, the longest text first.

    Letters that the metrics take for equal (case, width, shape of quotes) are equal here. A text may be spread over
    several lines, or share a line with another text; letters are given to one text only.
    """
    read = "\n".join(lines)
    free = fold(read)
    marked: dict[int, Marked] = {}
    for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        text = texts[index]
        pairs = align(fold(text), free)
        right = sum(e is not None and r is not None and same(fold(text)[e], free[r]) for e, r in pairs)
        if right < MIN_FOUND * max(len(text), 1):
            marked[index] = Marked(text, (Piece("missing", text, ""),))
            continue
        marked[index] = Marked(text, pieces(text, read, pairs))
        taken = [r for _, r in pairs if r is not None]
        free = free[: taken[0]] + CLAIMED * (taken[-1] + 1 - taken[0]) + free[taken[-1] + 1 :]
    return Marking(tuple(marked[index] for index in range(len(texts))), unclaimed(read, free))


def fold(text: str) -> str:
    """What the metrics compare, letter by letter, so that the length stays."""
    return "".join(plain if len(plain := normalise(letter)) == 1 else letter for letter in text)


def same(expected: str, read: str) -> bool:
    return expected == read or (expected.isspace() and read.isspace())


def align(expected: str, read: str) -> list[tuple[int | None, int | None]]:
    """The cheapest way to find `expected` somewhere inside `read` (Sellers 1980: free start, free end).

    Returns pairs of positions in reading order; None stands for a missing (read side) or extra (expected side) letter.
    An extra line break costs little; a space is never taken for a letter.
    """
    letters = np.array([ord(letter) for letter in read], dtype=np.int64)
    space = np.array([letter.isspace() for letter in read], dtype=bool)
    never = MISSING * (len(expected) + 1)  # dearer than to leave the whole text out
    wall = never * (letters == ord(CLAIMED))
    extra = np.where(letters == ord("\n"), LINE_END, EXTRA) + wall  # nobody steps over another text
    walked = np.concatenate([[0], np.cumsum(extra)])
    costs = np.zeros((len(expected) + 1, len(read) + 1), dtype=np.int64)
    changes = np.empty((len(expected), len(read)), dtype=np.int64)
    for e, letter in enumerate(expected):
        if letter.isspace():
            changes[e] = np.where(space, 0, never)
        else:
            changes[e] = np.where(letters == ord(letter), 0, WRONG + wall + never * space)
        costs[e + 1] = costs[e] + MISSING
        costs[e + 1, 1:] = np.minimum(costs[e + 1, 1:], costs[e, :-1] + changes[e])
        costs[e + 1] = np.minimum.accumulate(costs[e + 1] - walked) + walked
    return trace_back(costs, changes, extra)


def trace_back(costs: np.ndarray, changes: np.ndarray, extra: np.ndarray) -> list[tuple[int | None, int | None]]:
    """Walk the cost table (E+1, R+1) from its cheapest end to its first row."""
    pairs: list[tuple[int | None, int | None]] = []
    e, r = costs.shape[0] - 1, int(costs[-1].argmin())
    while e > 0:
        if r > 0 and costs[e, r] == costs[e - 1, r - 1] + changes[e - 1, r - 1]:
            e, r = e - 1, r - 1
            pairs.append((e, r))
        elif costs[e, r] == costs[e - 1, r] + MISSING:
            e -= 1
            pairs.append((e, None))
        else:
            assert costs[e, r] == costs[e, r - 1] + extra[r - 1]
            r -= 1
            pairs.append((None, r))
    return pairs[::-1]


def pieces(expected: str, read: str, pairs: Sequence[tuple[int | None, int | None]]) -> tuple[Piece, ...]:
    """Join neighbouring letters of one fate."""
    joined: list[Piece] = []
    for e, r in pairs:
        wanted = "" if e is None else expected[e]
        got = "" if r is None else read[r].replace("\n", " ")
        if e is None:
            kind = "right" if got.isspace() else "extra"
        elif r is None:
            kind = "missing"
        else:
            kind = "right" if same(fold(wanted), fold(got)) else "wrong"
        if joined and joined[-1].kind == kind:
            wanted, got = joined[-1].expected + wanted, joined[-1].read + got
            joined.pop()
        joined.append(Piece(kind, wanted, got))
    return tuple(joined)


def unclaimed(read: str, free: str) -> tuple[str, ...]:
    """The stretches of `read` that no text has taken, one for each line and gap."""
    kept = "".join("\n" if mask == CLAIMED else letter for letter, mask in zip(read, free, strict=True))
    return tuple(line.strip() for line in kept.split("\n") if line.strip())
