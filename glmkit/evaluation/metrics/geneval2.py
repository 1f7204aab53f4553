"""The totals of GenEval 2 (Kamath et al. 2025, arXiv 2512.16853), as its `evaluation.py` computes them.

An image counts a row SKILL/QUESTION, the probability of the right answer, and one GREEDY SKILL/QUESTION: whether the
most likely word is a right one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from glmkit.evaluation.metrics.chains import Array, Chain, Step, geometric_mean, mean, pool

SKILLS = ("object", "count", "attribute", "position", "verb")
GREEDY = "greedy "
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COUNTING = "How many"  # how questions for a number begin


def _over_prompts(how: Callable[[Array], Array], prefix: str = "") -> Chain:
    steps = (Step(how, ("prompt", "image")), Step(mean, ("prompt",)), Step(mean, scale=100))
    return Chain(tuple(prefix + skill for skill in SKILLS), steps, is_everywhere=False)


CHAINS: Mapping[str, Chain] = {
    "geneval2_gm": _over_prompts(geometric_mean),
    "geneval2_am": _over_prompts(mean),
    "geneval2_tifa": _over_prompts(mean, GREEDY),
    **{f"geneval2_{skill}": Chain((skill,), (Step(pool, scale=100),), is_everywhere=False) for skill in SKILLS},
}


def forms(question: str, answer: str) -> tuple[str, ...]:
    """List the words that count as this answer; of one that takes several tokens, the first decides."""
    if not question.startswith(COUNTING):
        return ("Yes", "yes", " yes", " Yes")
    digits = str(NUMBERS.index(answer) + 1) if answer in NUMBERS else "other"
    return tuple(blank + form for form in (answer, answer.capitalize(), digits) for blank in ("", " "))
