"""Text boxes of people and detectors: read where their form says what is meant, refused with a hint where not."""

from __future__ import annotations

from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.inputs.boxes import check_boxes, read_boxes


@pytest.mark.parametrize(
    "value",
    [
        [[10, 20, 30, 40]],
        [[10.0, 20.0, 30.0, 40.0]],
        ((10, 20, 30, 40),),
        "[[10, 20, 30, 40]]",
        [[[10, 20], [30, 21], [29, 40], [10, 39]]],
        [[10, 20, 30, 21, 29, 40, 10, 39]],
        [{"left": 10, "top": 20, "right": 30, "bottom": 40}],
        [{"x": 10, "y": 20, "width": 20, "height": 20, "text": "OPEN"}],
        [{"transcription": "OPEN", "points": [[10, 20], [30, 21], [29, 40], [10, 39]]}],
        [{"polygon": [10, 20, 30, 21, 29, 40, 10, 39]}],
    ],
)
def test_forms(value: Any) -> None:
    assert read_boxes(value, "a.png") == ((10, 20, 30, 40),)


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("", None), ([], ())])
def test_no_boxes(value: Any, expected: Any) -> None:
    assert read_boxes(value, "a.png") == expected


@pytest.mark.parametrize(
    "value",
    [
        *([10, 20, 30, 40], [[10, 20, 30]], [[]], [[10, 20], [30, 40]], [["10", "20", "30", "40"]], [[True, 0, 1, 2]]),
        *([[1, 2, 3, float("nan")]], [[1, 2, 3, float("inf")]], [[1, 2, 3, 10**400]], [None], 5, {"a": 1}, "{"),
        *([{"bbox": [1, 2, 3, 4]}], [[1, 2, 3, 4, 5]], [[[1, 2], [3, 4, 5], [6, 7]]]),
    ],
)
def test_what_has_no_known_form(value: Any) -> None:
    with pytest.raises(UserError, match=r"a\.png"):
        read_boxes(value, "a.png")


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[120, 90, 120, 110]], "has no area"),
        ([[120, 90, 140, 90]], "has no area"),
        ([[50, 10, 40, 20]], r"has no area"),
        ([[210, 20, 230, 40]], "reaches beyond"),
        ([[10, 20, 90, 240]], "reaches beyond"),
        ([[-20, 20, 90, 40]], "reaches beyond"),
        ([[0.1, 0.2, 0.5, 0.3]], "shares of the sides"),
        ([[0, 0, 1, 1]], "shares of the sides"),
        ([[10, 20, 30, 40], [120, 60, 40, 30]], "left, top, width, height"),
    ],
)
def test_boxes_that_no_image_of_200x100_has(boxes: list[list[float]], said: str) -> None:
    read = read_boxes(boxes, "a.png")
    assert read is not None
    with pytest.raises(UserError, match=said):
        check_boxes(read, 200, 100, "a.png")


@pytest.mark.parametrize("box", [[0, 0, 200, 100], [-1.5, 0, 201.5, 101], [10.2, 5, 10.9, 6]])
def test_boxes_that_fit_but_for_rounding(box: list[float]) -> None:
    read = read_boxes([box], "a.png")
    assert read is not None
    check_boxes(read, 200, 100, "a.png")
