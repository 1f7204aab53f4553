"""GEdit-Bench and ImgEdit-Bench: what their own code gives for the same answers, and an error for what it invents."""

from __future__ import annotations

from typing import Any

import pytest

from glmkit.evaluation import stats
from glmkit.evaluation.metrics.gedit import TASKS, item_scores, read_scores
from glmkit.evaluation.metrics.imgedit import TYPES, read_grades
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.records import Score


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"score": [8, 7], "reasoning": "ok"}', [8, 7]),
        ('Here it is:\n```json\n{"score": [8, 7], "reasoning": "ok"}\n```', [8, 7]),
        ('||V^=^V||\n{"score": [8, 7]}\n||V^=^V|| {', [8, 7]),
        ("[6, 0]", [6, 0]),
        ("The scores are [6,0].", [6, 0]),
        ("7", [7]),
        (" 10\n", [10]),
        ('{"score": 7}', [7]),
        ("{score: 7, reasoning: fine}", [7]),
        ('{"score": ["8", "7"], "reasoning": "ok"}', ["8", "7"]),
        ('{"score": [12, -1], "reasoning": "ok"}', [12, -1]),
        ('{"score": [8, 7], "reasoning": "first\nsecond"}', [8, 7]),
    ],
)
def test_gedit_reads_a_list_of_scores(answer: str, expected: list[Any]) -> None:
    assert read_scores(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "7.",
        "11",
        '{"rating": [4, 5]}',
        '{"score": [8, 7], "reasoning": "he said "no""}',
        "I cannot judge this image.",
        "rate_limit_exceeded",
        "[6, 0, 1]",
        "",
        "} {",
        '{"rating": 4}',
        "[[8]]",
    ],
)
def test_gedit_reads_nothing_in_other_answers(answer: str) -> None:
    """Its own code asks again, for ever or until it takes a random number."""
    with pytest.raises(UnreadableAnswerError, match="no list of scores"):
        read_scores(answer)


@pytest.mark.parametrize(
    ("sc", "pq", "expected"),
    [
        ("[9, 7]", "[8, 6]", {"sc": 7, "pq": 6, "o": 6.48074069840786}),
        ("8", "5", {"sc": 8, "pq": 5, "o": 6.324555320336759}),
        ('{"score": [12, 11]}', '{"score": [10, 10]}', {"sc": 11, "pq": 10, "o": 10.488088481701515}),
        ("[0, 9]", "[8, 6]", {"sc": 0, "pq": 6, "o": 0}),
    ],
)
def test_gedit_takes_the_lowest_scores_and_the_root_of_their_product(
    sc: str, pq: str, expected: dict[str, float]
) -> None:
    assert item_scores(sc, pq) == expected


@pytest.mark.parametrize("scores", ['["8", "7"]', "[12, -1]", "[]", "[null, 7]", "[[8]]"])
def test_gedit_cannot_use_some_scores(scores: str) -> None:
    with pytest.raises(UnreadableAnswerError, match="cannot be used"):
        item_scores(f'{{"score": {scores}}}', "[8, 6]")


def edited(task: str, number: int, sc: float, pq: float) -> Score:
    scores = item_scores(f"[{sc}, 10]", f"[{pq}, 10]")
    prefixes = ("", "common ") if number == 0 else ("",)
    counts = {f"{prefix}{part} {task}": (value, 1) for prefix in prefixes for part, value in scores.items()}
    return Score(f"{task}-{number}_0", f"{task}-{number}", 0, task, "en", (), counts=counts)


def test_gedit_averages_tasks() -> None:
    """Eleven tasks with one item 8/8, and three more items 0/9 in one of them."""
    scores = [edited(task, 0, 8, 8) for task in TASKS] + [edited("text_change", n, 0, 9) for n in (1, 2, 3)]
    values = [stats.estimate(scores, f"gedit{end}").value for end in ("_sc", "_pq", "")]
    assert values == pytest.approx([7.454545454545, 8.068181818182, 7.454545454545], abs=1e-12)
    assert stats.estimate(scores, "gedit_intersection").value == 8
    assert stats.estimate(scores, "gedit_text_change").value == 2
    assert stats.estimate(scores[1:], "gedit").value is None  # without a task there is no mean of tasks, as there


@pytest.mark.parametrize(
    ("answer", "grades", "mean"),
    [
        ("Brief reasoning: good.\nPrompt Compliance: 5\nVisual Naturalness: 4\nDetail: 4", [5, 4, 4], 4.33),
        ("A: 5.\nB: 4\nC: 3", [4, 3], 3.5),
        ("**A**: 5\n**B**: 4\n**C**: 2", [5, 4, 2], 3.67),
        ("A: 4.5\nB: 4\nC: 4/5\nD:4", [4], 4.0),
        ("Brief reasoning: shell: 4\nA: 1", [1], 1.0),
        ("A: 9\nB: 5\nC: 5", [9, 5, 5], 6.33),
    ],
)
def test_imgedit_reads_lines_that_end_in_a_grade(answer: str, grades: list[int], mean: float) -> None:
    assert read_grades(answer) == grades
    assert stats.estimate([graded("add", 0, grades)], "imgedit_add").value == mean


def test_imgedit_reads_no_grade_in_other_answers() -> None:
    for answer in ("", "I cannot help with that.", "A: five", "A: ²"):
        with pytest.raises(UnreadableAnswerError, match="no grade"):
            read_grades(answer)


def graded(kind: str, number: int, grades: list[int]) -> Score:
    counts = {f"{kind}/{index}": (float(grade), 1.0) for index, grade in enumerate(grades)}
    return Score(f"{kind}-{number}_0", f"{kind}-{number}", 0, kind, "en", (), counts=counts)


def test_imgedit_averages_images_then_types() -> None:
    of_types = {"add": ([5, 4, 4], [5]), "style": ([1], [5, 4, 2])}
    scores = [graded(kind, number, grades) for kind, of in of_types.items() for number, grades in enumerate(of)]
    assert stats.estimate(scores, "imgedit_add").value == 4.67
    assert stats.estimate(scores, "imgedit_style").value == 2.33
    assert stats.estimate(scores, "imgedit").value is None
    whole = scores + [graded(kind, 0, [3]) for kind in TYPES if kind not in ("add", "style")]
    assert stats.estimate(whole, "imgedit").value == pytest.approx((4.67 + 2.33 + 7 * 3) / 9)
