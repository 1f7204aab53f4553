"""Expected letters beside the letters that OCR read."""

from __future__ import annotations

import random

import pytest
from rapidfuzz.distance import Levenshtein

from glmkit.reporting.text_diff import ImageTextDiff, align_letters, diff_texts


def spans(diff: ImageTextDiff) -> list[list[tuple[str, str, str]]]:
    return [[(span.kind, span.expected, span.read) for span in text.spans] for text in diff.texts]


def test_wrong_missing_and_extra_letters_are_distinguished() -> None:
    diff = diff_texts(["SUMMER SALE", "half price"], ["half pxrice", "SUMNER", "SLE"])
    assert spans(diff) == [
        [
            ("correct", "SUM", "SUM"),
            ("wrong", "M", "N"),
            ("correct", "ER S", "ER S"),
            ("missing", "A", ""),
            ("correct", "LE", "LE"),
        ],
        [("correct", "half p", "half p"), ("extra", "", "x"), ("correct", "rice", "rice")],
    ]
    assert diff.summary == "Letters: 1 wrong, 1 missing, 1 extra"
    assert not diff.perfect


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["Summer Sale"], ["SUMMER", "SALE"]),  # case and line breaks do not count
        (["你好世界"], ["你好", "世界"]),  # nor do line breaks inside a language without spaces
        (["it's “new”"], ['IT’S "NEW"']),  # nor the shape of quotes
        (["one", "two"], ["two", "one"]),  # nor the order of the texts
        (["Big", "Bigger"], ["Bigger Big"]),  # the longer text is matched before the shorter
        ([], []),
    ],
)
def test_what_the_metrics_take_for_equal_is_perfect(texts: list[str], lines: list[str]) -> None:
    assert diff_texts(texts, lines).perfect


def test_a_space_is_never_a_wrong_letter() -> None:
    diff = diff_texts(["OPEN", "SALE"], ["OPEN", "ALE"])
    assert spans(diff)[1] == [("missing", "S", ""), ("correct", "ALE", "ALE")]
    spaces = diff_texts(["BLUE SKY"], ["BLUESKY"])
    assert spans(spaces) == [[("correct", "BLUE", "BLUE"), ("missing", " ", ""), ("correct", "SKY", "SKY")]]
    assert spaces.summary == "Every letter as expected, but not every space"


def test_a_letter_is_matched_by_one_text_only() -> None:
    diff = diff_texts(["GO", "GO"], ["GO"])
    assert spans(diff) == [[("correct", "GO", "GO")], [("missing", "GO", "")]]


def test_lines_of_no_text_are_kept_apart() -> None:
    diff = diff_texts(["HELLO"], ["xyz", "HELLO", "www"])
    assert diff.texts[0].spans[0].kind == "correct"
    assert diff.unexpected_lines == ("xyz", "www")


def test_an_accidental_letter_is_no_match() -> None:
    diff = diff_texts(["HELLO"], ["vwxoz"])
    assert spans(diff) == [[("missing", "HELLO", "")]]
    assert diff.unexpected_lines == ("vwxoz",)


def test_letters_of_other_lines_are_no_match() -> None:
    """Across three lines, harvest would match h, v and e; each line by itself is something else."""
    diff = diff_texts(["Fish", "Harvest"], ["Fash", "eoevee", "rrnd"])
    assert spans(diff) == [
        [("correct", "F", "F"), ("wrong", "i", "a"), ("correct", "sh", "sh")],
        [("missing", "Harvest", "")],
    ]
    assert diff.unexpected_lines == ("eoevee", "rrnd")


def test_alignment_costs_as_little_as_the_best_window() -> None:
    """Against every window of the read text, by the weighted Levenshtein distance of rapidfuzz."""
    rng = random.Random(0)
    for _ in range(200):
        expected = "".join(rng.choices("abc", k=rng.randint(1, 6)))
        read = "".join(rng.choices("abcd", k=rng.randint(0, 9)))
        pairs = align_letters(expected, read)
        assert [e for e, _ in pairs if e is not None] == list(range(len(expected)))
        positions = [r for _, r in pairs if r is not None]
        assert positions == list(range(positions[0], positions[0] + len(positions))) if positions else True
        cost = sum(9 if e is None else 11 if r is None else 10 * (expected[e] != read[r]) for e, r in pairs)
        windows = [read[i:j] for i in range(len(read) + 1) for j in range(i, len(read) + 1)]
        assert cost == min(Levenshtein.distance(window, expected, weights=(11, 9, 10)) for window in windows)


@pytest.mark.parametrize(("texts", "lines"), [(["a" * 20_000], ["a" * 20_000]), (["a" * 500] * 100, ["b" * 500] * 100)])
def test_long_texts_are_not_compared(texts: list[str], lines: list[str]) -> None:
    diff = diff_texts(texts, lines)
    assert (diff.texts, diff.unexpected_lines, diff.perfect) == ((), (), False)
    assert "Too long" in diff.summary


@pytest.mark.parametrize(
    ("texts", "lines", "misread"),
    [
        (["SUMMER SALE"], ["SUMNER", "SALE"], [("SUMMER", "SUMNER")]),
        (["BLUE SKY"], ["BLUESKY"], [("BLUE SKY", "BLUESKY")]),  # joined words are one
        (["OPEN", "SALE"], ["OPEN", "QQQ"], [("", "QQQ")]),  # a missing word has no pixels, an unexpected line has
        (["half price"], ["now hlf price  only"], [("half", "hlf"), ("", "now"), ("", "only")]),
        (["你好世界"], ["你好", "世男"], [("世界", "世男")]),
        (["Fresh Bread"], ["FRESH", "bread"], []),
    ],
)
def test_misread_words_and_where_they_were_read(
    texts: list[str], lines: list[str], misread: list[tuple[str, str]]
) -> None:
    read = "\n".join(lines)
    words = diff_texts(texts, lines).misread
    assert [(word.expected, read[word.start : word.stop]) for word in words] == misread
