"""VQAScore: what each version of its code gives for the same probabilities."""

from __future__ import annotations

import pytest
import torch

from glmkit.evaluation.judges.engines.transformers import probabilities
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.metrics.vqascore import (
    first_position,
    last_position,
    listed_exactly,
    listed_first,
    listed_last,
    whole_answer,
)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({"Yes": 0.9, "No": 0.08}, (0.9, 0.9, 0.9)),
        ({"No": 0.8, "Yes": 0.15}, (0.15, 1 - 0.8, 0.15)),
        ({"The": 0.5, "I": 0.3}, (0, 0, 0)),
        ({"yes": 0.5, "Yes": 0.4}, (0.4, 0.5, 0.4)),
        ({" Yes": 0.5, "NO": 0.4}, (0, 0, 0.5)),
        ({"no": 0.75}, (0, 0.25, 0.25)),
    ],
)
def test_an_endpoint_lists_words(listed: dict[str, float], expected: tuple[float, float, float]) -> None:
    positions = (listed, {"Yes": 1.0})  # only the first counts
    assert (listed_exactly(positions), listed_first(positions), listed_last(positions)) == expected


WORDS = {"Yes": 0, "No": 1, "yes": 2}
CLEAR = [4.0, 2, 1, 0, -3, -1]  # over Yes, No, yes, no, the end, "the"


def positions(*logits: list[float]) -> list[dict[str, float]]:
    return [probabilities(torch.tensor(one), WORDS) for one in logits]


@pytest.mark.parametrize(
    ("logits", "first", "last"),
    [
        ([CLEAR], 0.8257039785385132, 0.8257039785385132),
        ([[2.0, 0, 2, 0, -9, -9]], 0.44039204716682434, 0.44039204716682434),
        ([[0.0, 0, 0, 0, -9, 5], CLEAR], 0.006561107933521271, 0.8257039785385132),
    ],
)
def test_a_model_on_this_machine(logits: list[list[float]], first: float, last: float) -> None:
    assert (first_position(positions(*logits)), last_position(positions(*logits))) == (first, last)


def test_the_token_that_ends_an_answer_does_not_count() -> None:
    end = [0.0, 0, 0, 0, 9, 0]
    assert last_position(positions(CLEAR, end), True) == 0.8257039785385132
    assert first_position(positions(end), True) == pytest.approx(0.000123, rel=0.01)
    for nothing in (positions(end), []):
        with pytest.raises(UnreadableAnswerError):
            last_position(nothing, bool(nothing))


@pytest.mark.parametrize(
    ("yes", "end", "first", "expected"),
    [
        ([6.0, 0, 0, 0], [0.0, 0, 0, 9], 0.99261873960495, 0.9961181282997131),
        ([0.0, 3, 0, 0], [0.0, 0, 0, 5], 0.04331716522574425, 0.20605561137199402),
    ],
)
def test_flan_t5_counts_the_end_of_its_answer(
    yes: list[float], end: list[float], first: float, expected: float
) -> None:
    """Its code averages logarithms in float32, which is why only seven digits are the same."""
    given = [probabilities(torch.tensor(yes), {"Yes": 0}), probabilities(torch.tensor(end), {"</s>": 3})]
    assert given[0]["Yes"] == first
    assert whole_answer(given) == pytest.approx(expected, rel=1e-7)
    with pytest.raises(UnreadableAnswerError, match="'</s>' are needed"):
        whole_answer(given[:1])
