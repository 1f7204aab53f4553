"""How public benchmarks read the answers of a judge, and which answers count when others are no.

The same answer is worth one thing here and another there; what looks odd here is odd there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_YES_OR_NO = re.compile(r"(yes|no)\b", re.IGNORECASE)

Parents = Mapping[str, Sequence[str]]  # question -> questions that must be answered with yes before


class UnreadableAnswerError(Exception):
    """An answer says neither yes nor no, or not as often as asked."""


def first_word(answer: str) -> bool:
    """Read an answer that begins with yes or no, in any case; UnreadableAnswerError for any other."""
    (said,) = lines_of_answers(answer.strip().partition("\n")[0], 1)
    return said


def no_answers(answers: Iterable[str]) -> tuple[int, int]:
    """Count the answers that begin with the word no, in any case, and all of them."""
    said = [re.match(r"\W*no\b", answer, re.IGNORECASE) is not None for answer in answers]
    return sum(said), len(said)


def lines_of_answers(answer: str, count: int) -> list[bool]:
    """Read one answer per line, as TIIF-Bench does: lines that begin with the word yes or no, in any case, count.

    UnreadableAnswerError when they are not `count`.
    """
    matches = (_YES_OR_NO.match(line.strip()) for line in answer.split("\n"))
    said = [match[1].lower() == "yes" for match in matches if match]
    if len(said) != count:
        raise UnreadableAnswerError(f"{len(said)} answers to {count} questions: {answer[:120]!r}")
    return said


def cascaded(values: Mapping[str, float], parents: Parents) -> dict[str, float]:
    """Set questions to 0 whose parents are 0, one after another in their order, as DPG-Bench does.

    A parent that fell counts as 0 for what stands behind it. KeyError for a parent that is no question.
    """
    result = dict(values)
    for question in values:
        if any(result[parent] == 0 for parent in parents.get(question, ())):
            result[question] = 0.0
    return result


def without_parent(values: Mapping[str, float], parents: Parents) -> dict[str, float]:
    """Set questions to 0 that have a parent with 0, as OneIG-Bench does.

    Only what was answered counts, not what fell by this rule; a parent that is no question counts as yes.
    """
    return {
        question: 0.0 if any(values.get(parent, 1.0) == 0 for parent in parents.get(question, ())) else value
        for question, value in values.items()
    }
