"""The totals of GEdit-Bench (Liu et al. 2025, arXiv 2504.17761), as its scripts compute them with VIEScore's parse.

An edited image counts rows PART TASK, and COMMON PART TASK where every closed model returned an image for the item; the
parts are `sc` (instruction followed, nothing else changed), `pq` (natural, without artefacts) and `o`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from glmkit.evaluation.metrics.chains import Chain, Step, mean, mean_of_all
from glmkit.evaluation.metrics.questions import UnreadableAnswerError

TASKS = (
    "background_change",
    "color_alter",
    "material_alter",
    "motion_change",
    "ps_human",
    "style_change",
    "subject-add",
    "subject-remove",
    "subject-replace",
    "text_change",
    "tone_transfer",
)
PARTS = {"o": "", "sc": "_sc", "pq": "_pq"}  # part -> end of its metrics' names
COMMON = "common "
_DELIMITER = "||V^=^V||"
_LIST = re.compile(r"\[\d+, ?\d+\]")
_BARE_KEY = re.compile(r"(\w+):")
_PAIR = re.compile(r'(".*?"):(.*?)([,}])')


def _over_tasks(prefix: str) -> Chain:
    groups = tuple(f"{prefix} {task}" for task in TASKS)
    return Chain(groups, (Step(mean, ("group",)), Step(mean_of_all)), is_everywhere=False)


CHAINS: Mapping[str, Chain] = {
    **{f"gedit{end}": _over_tasks(part) for part, end in PARTS.items()},
    **{f"gedit{end}_intersection": _over_tasks(COMMON + part) for part, end in PARTS.items()},
    **{f"gedit_{task.replace('-', '_')}": Chain((f"o {task}",), (Step(mean),), is_everywhere=False) for task in TASKS},
}


def item_scores(sc_answer: str, pq_answer: str) -> dict[str, float]:
    """Calculate the parts of one edited image: the lowest of each list, and the root of their product.

    UnreadableAnswerError for answers that the benchmark asks for again, replaces by a random number, or fails on.
    """
    scores = [read_scores(sc_answer), read_scores(pq_answer)]
    try:
        sc, pq = (min(of) for of in scores)
        return {"o": math.sqrt(sc * pq), "sc": float(sc), "pq": float(pq)}
    except (TypeError, ValueError) as error:
        raise UnreadableAnswerError(f"scores that cannot be used: {scores!r}"[:160]) from error


def read_scores(answer: str) -> list[Any]:
    """Read the list `score` of the JSON object in an answer, a lone list of two numbers, or a lone 0 to 10.

    What stands in the list is not looked at. UnreadableAnswerError when there is none.
    """
    if answer.count(_DELIMITER) == 2:
        found = answer.split(_DELIMITER)[1]
    elif "{" in answer and "}" in answer:
        found = answer[answer.find("{") : answer.rfind("}") + 1]
    else:
        return _lone_scores(answer)
    text = found.strip().replace("\n", "")
    try:
        score = json.loads(text)["score"]
        return score if isinstance(score, list) else [score]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    try:
        score = json.loads(_repaired(text))["score"]
        if isinstance(score, list):
            return score
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UnreadableAnswerError(f"no list of scores: {answer[:120]!r}")


def _lone_scores(answer: str) -> list[Any]:
    """Read an answer without an object."""
    found = answer[answer.find("[") : answer.rfind("]") + 1] if "[" in answer else ""
    if _LIST.fullmatch(found):
        scores: list[Any] = json.loads(found)
        return scores
    try:
        number = int(answer)
    except ValueError:
        number = -1
    if not 0 <= number <= 10:
        raise UnreadableAnswerError(f"no list of scores: {answer[:120]!r}")
    return [number]


def _repaired(text: str) -> str:
    """Put keys and texts in quotes, and lone numbers in lists, as VIEScore repairs what is no JSON."""

    def value(match: re.Match[str]) -> str:
        key, given, end = match[1], match[2].strip(), match[3]
        if re.fullmatch(r"-?\d+(\.\d+)?", given):
            given = f"[{given}]"
        elif given.lower() not in ("true", "false", "null"):
            given = f'"{given}"'
        return f"{key}: {given}{end}"

    return _PAIR.sub(value, _BARE_KEY.sub(r'"\1":', text))
