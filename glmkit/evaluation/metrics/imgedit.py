"""The totals of ImgEdit-Bench, basic suite (Ye et al. 2025, arXiv 2505.20275), as its two scripts compute them.

An edited image counts a row TYPE/NUMBER for each grade that was found. The mean over types is that of most of the
published tables; the benchmark's code leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping

from glmkit.evaluation.metrics.chains import Chain, Step, mean, mean_of_all
from glmkit.evaluation.metrics.questions import UnreadableAnswerError

TYPES = ("add", "adjust", "extract", "replace", "remove", "background", "style", "compose", "action")
_STEPS = (Step(mean, ("prompt", "image", "group"), digits=2), Step(mean, ("group",), digits=2))

CHAINS: Mapping[str, Chain] = {
    "imgedit": Chain(TYPES, (*_STEPS, Step(mean_of_all)), is_everywhere=False),
    **{f"imgedit_{kind}": Chain((kind,), _STEPS, is_everywhere=False) for kind in TYPES},
}


def read_grades(answer: str) -> list[int]:
    """Read the whole numbers behind the only ": " of a line; UnreadableAnswerError without any.

    Like the benchmark's code, this passes over grades in any other form, such as `5.` and `4.5`, and over what is
    missing, and does not ask whether a grade is 1 to 5.
    """
    parts = [line.strip().split(": ") for line in answer.splitlines()]
    grades = [int(part[1]) for part in parts if len(part) == 2 and part[1].isdecimal()]
    if not grades:
        raise UnreadableAnswerError(f"no grade: {answer[:120]!r}")
    return grades
