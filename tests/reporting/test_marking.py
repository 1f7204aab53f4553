"""Expected letters beside read letters."""

from __future__ import annotations

import random

import pytest
from rapidfuzz.distance import Levenshtein

from glmkit.reporting.marking import Marking, align, mark


def spelled(marking: Marking) -> list[list[tuple[str, str, str]]]:
    return [[(piece.kind, piece.expected, piece.read) for piece in text.pieces] for text in marking.texts]


def test_wrong_missing_and_extra_letters_are_told_apart() -> None:
    marking = mark(["SUMMER SALE", "half price"], ["half pxrice", "SUMNER", "SLE"])
    assert spelled(marking) == [
        [
            ("right", "SUM", "SUM"),
            ("wrong", "M", "N"),
            ("right", "ER S", "ER S"),
            ("missing", "A", ""),
            ("right", "LE", "LE"),
        ],
        [("right", "half p", "half p"), ("extra", "", "x"), ("right", "rice", "rice")],
    ]
    assert marking.in_words == "Letters: 1 wrong, 1 missing, 1 extra"
    assert not marking.perfect


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["Summer Sale"], ["SUMMER", "SALE"]),  # case and line breaks do not count
        (["你好世界"], ["你好", "世界"]),  # nor do line breaks inside a language without spaces
        (["it's “new”"], ['IT’S "NEW"']),  # nor the shape of quotes
        (["one", "two"], ["two", "one"]),  # nor the order of the texts
        (["Big", "Bigger"], ["Bigger Big"]),  # the longer text is not robbed by the shorter
        ([], []),
    ],
)
def test_what_the_metrics_take_for_equal_is_perfect(texts: list[str], lines: list[str]) -> None:
    assert mark(texts, lines).perfect


def test_a_space_is_never_a_wrong_letter() -> None:
    marking = mark(["OPEN", "SALE"], ["OPEN", "ALE"])
    assert spelled(marking)[1] == [("missing", "S", ""), ("right", "ALE", "ALE")]
    spaces = mark(["BLUE SKY"], ["BLUESKY"])
    assert spelled(spaces) == [[("right", "BLUE", "BLUE"), ("missing", " ", ""), ("right", "SKY", "SKY")]]
    assert spaces.in_words == "Every letter as expected, but not every space"


def test_a_letter_serves_one_text_only() -> None:
    marking = mark(["GO", "GO"], ["GO"])
    assert spelled(marking) == [[("right", "GO", "GO")], [("missing", "GO", "")]]


def test_lines_of_no_text_are_kept_apart() -> None:
    marking = mark(["HELLO"], ["xyz", "HELLO", "www"])
    assert marking.texts[0].pieces[0].kind == "right"
    assert marking.unexpected == ("xyz", "www")


def test_an_accidental_letter_is_no_find() -> None:
    marking = mark(["HELLO"], ["vwxoz"])
    assert spelled(marking) == [[("missing", "HELLO", "")]]
    assert marking.unexpected == ("vwxoz",)


def test_letters_of_other_lines_are_no_find() -> None:
    """Across three lines, harvest would find h, v and e; each line by itself is something else."""
    marking = mark(["Fish", "Harvest"], ["Fash", "eoevee", "rrnd"])
    assert spelled(marking) == [
        [("right", "F", "F"), ("wrong", "i", "a"), ("right", "sh", "sh")],
        [("missing", "Harvest", "")],
    ]
    assert marking.unexpected == ("eoevee", "rrnd")


def test_alignment_costs_as_little_as_the_best_window() -> None:
    """Against every window of the read text, by the weighted Levenshtein distance of rapidfuzz."""
    rng = random.Random(0)
    for _ in range(200):
        expected = "".join(rng.choices("abc", k=rng.randint(1, 6)))
        read = "".join(rng.choices("abcd", k=rng.randint(0, 9)))
        pairs = align(expected, read)
        assert [e for e, _ in pairs if e is not None] == list(range(len(expected)))
        positions = [r for _, r in pairs if r is not None]
        assert positions == list(range(positions[0], positions[0] + len(positions))) if positions else True
        cost = sum(9 if e is None else 11 if r is None else 10 * (expected[e] != read[r]) for e, r in pairs)
        windows = [read[i:j] for i in range(len(read) + 1) for j in range(i, len(read) + 1)]
        assert cost == min(Levenshtein.distance(window, expected, weights=(11, 9, 10)) for window in windows)
