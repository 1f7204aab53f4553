"""The published scores: values that the benchmarks' own code gave, and what must hold for every text.

The expectations named GOLDEN come from running the public functions on these inputs: CVTG-2K `unified_metrics_eval.py`
(`extract_words_from_prompt`, `compute_ocr_metrics`), X-Omni `textbench/summary_scores.py` (`preprocess_string`,
`calculate_char_match_ratio`), OneIG-Benchmark `scripts/text/text_utils.py`.
"""

from __future__ import annotations

import difflib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmkit.evaluation.metrics.cvtg import cvtg_scores, cvtg_words
from glmkit.evaluation.metrics.longtext import longtext_answer, longtext_score
from glmkit.evaluation.metrics.oneig import oneig_answer, oneig_combine, oneig_text_aggregate, oneig_text_score

TEXT = st.text("abAB' \n\t.,éÉ019中文狐龥龦鿿\\n[]\u3000", max_size=25)
LINES = st.lists(TEXT, max_size=5)
PROMPT = st.lists(TEXT, max_size=5).map("'".join)

CVTG_GOLDEN: list[tuple[str, list[str], int, list[float]]] = [
    # a repeat in the prompt may use the same read word twice; an apostrophe opens a span
    ("A sign 'Grand SALE' and 'sale 50%'", ["grand sal", "SALE 50 %"], 3, [1.0, 1.0, 1.0, 0.6666677777740742]),
    ("'ab ba'", ["ba ab", "bb"], 2, [1.0, 1.0]),
    ("it's a 'cat'", ["cat"], 0, [3.3333222222431402e-06, 0.3333355555481482]),
    # difflib rates spot and post alike: the tie goes to the greater string
    ("'stop'", ["spot post"], 0, [0.5000012499968749]),
    ("'x'", [], 0, [9.999900001056439e-06]),
    ("'İx'", ["i̇x"], 1, [1.0]),
    ("no quotes", ["a"], 0, []),
]


@pytest.mark.parametrize(("prompt", "lines", "hits", "similarities"), CVTG_GOLDEN)
def test_cvtg_golden(prompt: str, lines: list[str], hits: int, similarities: list[float]) -> None:
    scores = cvtg_scores(prompt, lines)
    assert sum(score.hit for score in scores) == hits
    assert [score.similarity for score in scores] == similarities


@given(PROMPT, LINES)
def test_cvtg_is_the_definition_written_out(prompt: str, lines: list[str]) -> None:
    read = " ".join(lines).lower().split() or [""]
    for word, hit, similarity in cvtg_scores(prompt, lines):
        ranked = sorted((difflib.SequenceMatcher(None, other, word).ratio(), other) for other in read)
        nearest = ranked[-1][1]
        assert hit == (word in read)
        assert similarity == 1 - edits(word, nearest) / (max(len(word), len(nearest)) + 1e-5)


@given(PROMPT, LINES, st.randoms(use_true_random=False))
def test_cvtg_ignores_the_order_and_forgives_extra_text(prompt: str, lines: list[str], rng: random.Random) -> None:
    scores = cvtg_scores(prompt, lines)
    assert [score.word for score in scores] == cvtg_words(prompt)
    mixed = rng.sample(lines, len(lines))
    assert cvtg_scores(prompt, mixed) == scores
    for before, after in zip(scores, cvtg_scores(prompt, [*lines, prompt.replace("'", " ")]), strict=True):
        assert after.hit
        assert after.similarity == 1
        assert before.hit <= after.hit


LONGTEXT_GOLDEN: list[tuple[list[str], str, str, tuple[int, int]]] = [
    (["Café — 50% OFF", "off"], "CAFÉ 50 off", "en", (3, 4)),
    (["每日 A 新鲜", "A龥龦"], "a新 鲜日A鲜龦", "zh", (4, 7)),
    (["a a b"], "b a a a", "en", (3, 3)),
    (["ﬁne Ångström"], "fine ngstrom ne", "en", (1, 2)),
]


@pytest.mark.parametrize(("texts", "read", "language", "expected"), LONGTEXT_GOLDEN)
def test_longtext_golden(texts: list[str], read: str, language: str, expected: tuple[int, int]) -> None:
    assert longtext_score(texts, read, language) == expected


@given(st.lists(TEXT, min_size=1, max_size=4), TEXT, st.sampled_from(["en", "zh"]))
def test_longtext_is_a_recall_of_units(texts: list[str], read: str, language: str) -> None:
    matched, total = longtext_score(texts, read, language)
    assert 0 <= matched <= total
    assert longtext_score(texts, " ".join(texts), language) == (total, total)
    assert longtext_score(texts, f"{read} {' '.join(texts)}", language) == (total, total)
    assert longtext_score([read], " ".join(texts), language)[0] == matched


ONEIG_GOLDEN: list[tuple[str, str, tuple[int, int, int]]] = [
    ("['Big Sale', 'Now']", "Big  Sale\nnow", (1, 2, 3)),
    ("""['It\\'s', "a\\nb"]""", "It s a nb", (2, 0, 2)),  # the escaped line break of the cell leaves its n
    ("['中文 ABC', 'x']", "中 文abcx", (3, 3, 6)),
    ("['ABC def']", "中ABC def", (2, 0, 2)),  # one Chinese character read joins the words of that side only
    ("['a']", "", (1, 0, 1)),
]


@pytest.mark.parametrize(("cell", "read", "expected"), ONEIG_GOLDEN)
def test_oneig_golden(cell: str, read: str, expected: tuple[int, int, int]) -> None:
    assert oneig_text_score(cell, read) == expected


@given(TEXT, TEXT)
def test_oneig_edits_are_levenshtein_on_kept_characters(cell: str, read: str) -> None:
    score = oneig_text_score(cell, read)
    assert score.edits == edits(_compared(cell), _compared(read))
    assert 0 <= score.matched <= score.total
    assert score.edits or score.matched == score.total
    assert oneig_text_score(cell, cell) == (0, score.total, score.total)


def _compared(text: str) -> str:
    """By Unicode ranges instead of one regular expression."""
    compared = "".join(
        c for c in text if "一" <= c <= "龥" or c.isspace() or c in "éÉn" or (c.isascii() and c.isalnum())
    )
    return ("" if any("一" <= c <= "龥" for c in compared) else " ").join(compared.split())


def test_oneig_table_by_hand() -> None:
    """Edits 0 and 30: ED 15, CR 1/2; units 3 + 1 of 3 + 5: WAC 1/2; score 1 - 15/100 * 1/2 * 1/2."""
    scores = [oneig_text_score("a b c", "a b c"), oneig_text_score("a b c d e", "")._replace(edits=30, matched=1)]
    assert oneig_text_aggregate(scores, "en") == (15.0, 0.5, 0.5, 0.9625)
    assert oneig_text_aggregate(scores, "zh").score == 0.925
    worst = [oneig_text_score("a", "")._replace(edits=400)]
    assert oneig_text_aggregate(worst, "zh") == (400.0, 0.0, 0.0, 0.0)


def test_oneig_score_of_arrays_is_that_of_each_set() -> None:
    ed, cr, wac = np.array([10.0, 200.0]), np.array([0.5, 0.0]), np.array([0.25, 0.5])
    one_by_one = [float(oneig_combine(*parts, 100)) for parts in zip(ed, cr, wac, strict=True)]
    assert oneig_combine(ed, cr, wac, 100).tolist() == one_by_one == [1 - 10 * 0.5 * 0.75 / 100, 0.5]


def test_phrases_that_the_benchmarks_remove() -> None:
    """LongText-Bench loops over both phrases but keeps only the removal of the last one."""
    answer = "addCriterion\nSale No text recognized."
    assert longtext_answer(answer) == "addCriterion\nSale "
    assert oneig_answer(answer) == "\nSale "
    assert oneig_answer("No text recognized") == "No text recognized"


def edits(one: str, other: str) -> int:
    """Levenshtein distance by its recurrence."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def test_the_test_counts_edits() -> None:
    assert edits("kitten", "sitting") == 3
    assert edits("", "abc") == 3
