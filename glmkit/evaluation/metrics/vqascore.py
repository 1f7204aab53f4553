"""VQAScore (Lin et al. 2024, arXiv 2404.01291): how likely a judge answers yes to "Does this show ...?".

The versions of its code (t2v_metrics) count it in different ways, and each by another kind of judge; a value says
nothing without its version. A position maps words to probabilities, for one token of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from glmkit.evaluation.metrics.questions import UnreadableAnswerError

Position = Mapping[str, float]
Rule = Callable[[Sequence[Position], bool], float]  # the positions; whether the last one ends the answer
YES, NO, END = "Yes", "No", "</s>"


def whole_answer(positions: Sequence[Position], _is_ended: bool = True) -> float:
    """Calculate the geometric mean of the probabilities of `Yes` and of the end behind it, as with CLIP-FlanT5."""
    known = [position.get(word) for position, word in zip(positions, (YES, END), strict=False)]
    given = [probability for probability in known if probability is not None]
    if len(given) != 2:
        raise UnreadableAnswerError(f"the probabilities of {YES!r} and, behind it, of {END!r} are needed")
    return math.sqrt(math.prod(given))


def first_position(positions: Sequence[Position], _is_ended: bool = False) -> float:
    """Return the probability of `Yes` as the first token, as version 3.0 with Qwen2.5-VL."""
    return _yes(positions[:1])


def last_position(positions: Sequence[Position], is_ended: bool = False) -> float:
    """Return the probability of `Yes` as the last token before the end, as version 3.1 with its local judges."""
    return _yes(positions[: len(positions) - is_ended][-1:])


def listed_exactly(positions: Sequence[Position], _is_ended: bool = False) -> float:
    """Return the probability of `Yes` in the list of the first token, 0 where it is not listed: version 1.2."""
    return _first(positions).get(YES, 0.0)


def listed_first(positions: Sequence[Position], _is_ended: bool = False) -> float:
    """Go by the first of Yes, yes (its probability), No and no (1 - its own) in the list, else 0: version 3.0."""
    listed = _first(positions)
    word = next((word for word in listed if word in (YES, "yes", NO, "no")), None)
    if word is None:
        return 0.0
    return listed[word] if word in (YES, "yes") else 1 - listed[word]


def listed_last(positions: Sequence[Position], _is_ended: bool = False) -> float:
    """Go by the last word in the list that is yes, else by the last that is no (1 - its own), else 0: version 3.1.

    White space around a word and its case do not count.
    """
    last = {word.strip().lower(): probability for word, probability in _first(positions).items()}
    return last["yes"] if "yes" in last else 1 - last["no"] if "no" in last else 0.0


def _first(positions: Sequence[Position]) -> Position:
    if not positions:
        raise UnreadableAnswerError("the answer came without probabilities")
    return positions[0]


def _yes(position: Sequence[Position]) -> float:
    probability = next(iter(position), {}).get(YES)
    if probability is None:
        raise UnreadableAnswerError(f"the answer came without a probability of {YES!r}")
    return probability
