"""Text metrics against values by hand and against a plain edit distance."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glmkit.evaluation.metrics.text import METRICS, Match, assign, counts, normalise, pieces, units, word_precision

WORDS = st.text(alphabet="abcdeß É火", min_size=1, max_size=8).filter(str.strip)


def edit_distance(one: str, other: str) -> int:
    """Wagner and Fischer 1974, row by row."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def value(expected: list[str], read: list[str], metric: str, language: str = "en") -> float:
    numerator, denominator = counts(expected, read, language)[metric]
    return numerator / denominator


def test_every_metric_is_defined() -> None:
    assert set(counts(["a"], ["a"], "en")) == set(METRICS)
    assert {metric["direction"] for metric in METRICS.values()} == {"higher", "lower"}


def test_one_wrong_letter_by_hand() -> None:
    # "grandopening" (12) was read as "grandopenlng": one edit. "sale" (4) is right.
    result = counts(["Grand Opening", "SALE"], ["sale", "GRAND", "OPENlNG"], "en")
    assert result["word_accuracy"] == (2, 3)
    assert result["ned"] == pytest.approx((1 + 11 / 12, 2))
    assert result["cer"] == (1, 16)


def test_unasked_text_costs_only_in_cer() -> None:
    result = counts(["OPEN"], ["mountain", "OPEN"], "en")
    assert result == {"word_accuracy": (1, 1), "ned": (1.0, 1), "cer": (8, 4)}


def test_nothing_read() -> None:
    assert counts(["Hello you"], [], "en") == {"word_accuracy": (0, 2), "ned": (0, 1), "cer": (8, 8)}


def test_repeated_words_must_be_read_as_often() -> None:
    assert counts(["no no", "no"], ["no no"], "en")["word_accuracy"] == (2, 3)
    assert counts(["no", "no"], ["no"], "en")["ned"] == (1.0, 2)


@pytest.mark.parametrize(
    ("expected", "read"),
    [
        ("Grand Opening", ["GrandOpening"]),
        ("Grand Opening", ["Grand", "Opening"]),
        ("don’t stop", ["don't", "stop"]),
        ("ＡＢＣ", ["abc"]),
        ("STRASSE", ["straße"]),
        ("7–9 pm", ["7-9 pm"]),
    ],
)
def test_what_does_not_count_in_ned(expected: str, read: list[str]) -> None:
    assert value([expected], read, "ned") == 1
    assert value([expected], read, "cer") == 0


def test_punctuation_and_digits_count() -> None:
    assert value(["Sale!"], ["Sale"], "word_accuracy") == 0
    assert value(["Sale!"], ["Sale"], "ned") == pytest.approx(4 / 5)
    assert value(["12:30"], ["12:80"], "word_accuracy") == 0


def test_chinese_is_counted_in_characters() -> None:
    result = counts(["欢迎光临"], ["欢迎", "先 临"], "zh")
    assert result == {"word_accuracy": (3, 4), "ned": (0.75, 1), "cer": (1, 4)}
    assert units(["欢迎 A1"], "zh") == ["欢", "迎", "a", "1"]


def test_two_texts_on_one_read_line() -> None:
    assert assign(["open daily", "from nine"], pieces(["Open daily from nine"])) == [
        Match(0, 0, 2, 1.0),
        Match(1, 2, 4, 1.0),
    ]


def test_ties_go_to_the_longer_text() -> None:
    matches = assign(["big", "big sale"], pieces(["big sale"]))
    assert matches == [Match(1, 0, 2, 1.0)]


def test_a_word_belongs_to_one_text_only() -> None:
    # "tea" takes its exact match; "teas" is left with nothing, although "tea" resembles it
    assert assign(["tea", "teas"], ["tea"]) == [Match(0, 0, 1, 1.0)]


def test_a_long_paragraph_in_any_line_breaks() -> None:
    words = [f"w{number}x" for number in range(60)]
    lines = [" ".join(words[start : start + 7]) for start in range(0, 60, 7)]
    assert counts([" ".join(words)], lines, "en") == {
        "word_accuracy": (60, 60),
        "ned": (1.0, 1),
        "cer": (0, sum(map(len, words))),
    }


@given(WORDS, WORDS)
@settings(max_examples=60, deadline=None)
def test_one_text_one_piece_is_the_edit_distance(expected: str, read: str) -> None:
    one, other = (normalise(text).replace(" ", "") for text in (expected, read))
    distance = edit_distance(one, other)
    result = counts([expected], [other], "en")
    assert result["ned"][0] == pytest.approx(1 - distance / max(len(one), len(other)))
    assert result["cer"] == (distance, len(one))


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, max_size=4))
@settings(max_examples=60, deadline=None)
def test_ranges_and_disjoint_runs(expected: list[str], read: list[str]) -> None:
    result = counts(expected, read, "en")
    hits, words = result["word_accuracy"]
    similarity, texts = result["ned"]
    edits, characters = result["cer"]
    assert 0 <= hits <= words
    assert 0 <= similarity <= texts + 1e-9
    assert edits >= 0
    assert characters > 0
    used = [index for match in assign(expected, pieces(read)) for index in range(match.start, match.stop)]
    assert len(used) == len(set(used))


@given(st.permutations(["alpha beta", "gamma", "delta epsilon zeta", "eta"]))
@settings(max_examples=24, deadline=None)
def test_order_of_lines_does_not_matter(read: list[str]) -> None:
    expected = ["alpha beta", "gamma", "delta epsilon zeta", "eta"]
    assert counts(expected, read, "en") == {"word_accuracy": (7, 7), "ned": (4.0, 4), "cer": (0, 33)}


@pytest.mark.parametrize(
    ("read", "precision"),
    [
        (["Grand OPENING", "sale"], (3, 3)),
        (["grand opening", "sale", "since 1999"], (3, 5)),  # text that was not asked for
        (["grand opening", "grand", "sale"], (3, 4)),  # text that is repeated
        (["grand 0pening"], (1, 2)),  # a misspelt word
        ([], (0, 0)),
    ],
)
def test_precision_is_the_share_of_read_words_that_were_expected(read: list[str], precision: tuple[int, int]) -> None:
    assert word_precision(["Grand Opening", "SALE"], read, "en") == precision


def test_precision_of_unspaced_languages_counts_characters() -> None:
    assert word_precision(["欢迎光临"], ["欢迎 光临", "北京"], "zh") == (4, 6)
