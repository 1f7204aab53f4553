"""Where text stands, as people and detectors write it: boxes or polygons in pixels of the upright image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from glmkit.errors import UserError
from glmkit.text import parse_json

Box = tuple[float, float, float, float]  # left, top, right, bottom
FORM = "[[left, top, right, bottom], ...] in pixels of the image"
CORNERS = (("left", "top", "right", "bottom"), ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
POLYGONS = ("points", "polygon", "poly", "quad")
SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
TOLERANCE = 0.01  # of a side: detectors round beyond the edge


def read_boxes(value: Any, name: str) -> tuple[Box, ...] | None:
    """Read boxes: four numbers, a polygon of points, or an object that names its numbers; None for None.

    UserError for anything else, and for numbers that are not finite.
    """
    if isinstance(value, str):  # a cell of a CSV table
        value = parse_json(value, f"text_boxes of {name}") if value.strip() else None
    if value is None:
        return None
    try:
        return tuple(_box(one) for one in value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name}: text boxes are not of their form", found=str(value)[:200], fix=FORM) from error


def _box(value: Any) -> Box:
    if isinstance(value, Mapping):
        for names in CORNERS:
            if value.keys() >= set(names):
                return _four([value[name] for name in names])
        for names in SIZES:
            if value.keys() >= set(names):
                left, top, width, height = _four([value[name] for name in names])
                return left, top, left + width, top + height
        value = next((value[name] for name in POLYGONS if name in value), value)
    numbers = list(value)
    if len(numbers) == 4 and not isinstance(numbers[0], (list, tuple)):
        return _four(numbers)
    if numbers and not isinstance(numbers[0], (list, tuple)):  # x y x y x y ...
        numbers = list(zip(numbers[::2], numbers[1::2], strict=True))
    if len(numbers) < 3:
        raise ValueError("neither four numbers nor a polygon")
    points = [(_number(x), _number(y)) for x, y in numbers]
    columns, rows = zip(*points, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


def _four(values: list[Any]) -> Box:
    left, top, right, bottom = map(_number, values)
    return left, top, right, bottom


def _number(value: Any) -> float:
    if isinstance(value, (bool, str)) or not math.isfinite(number := float(value)):
        raise ValueError("no number")
    return number


def check_boxes(boxes: tuple[Box, ...], width: int, height: int, name: str) -> None:
    """Raise UserError for a box without area, or one that leaves an image of this size by more than rounding."""
    slack_x, slack_y = max(2, TOLERANCE * width), max(2, TOLERANCE * height)

    def inside(left: float, top: float, right: float, bottom: float) -> bool:
        return min(left + slack_x, top + slack_y) >= 0 and right <= width + slack_x and bottom <= height + slack_y

    for box in boxes:
        left, top, right, bottom = box
        has_area = left < right and top < bottom and left < width and top < height and right > 0 and bottom > 0
        if has_area and inside(*box) and max(map(max, boxes)) > 1:
            continue
        problem = "reaches beyond the image" if left < right and top < bottom else "has no area"
        fix = f"{FORM}, or an empty list where no text stands"
        if min(map(min, boxes)) >= 0 and max(map(max, boxes)) <= 1:
            problem, fix = "is less than a pixel", "these look like shares of the sides; text boxes are in pixels"
        elif all(min(one[2:]) > 0 and inside(*one[:2], one[0] + one[2], one[1] + one[3]) for one in boxes):
            fix = "these look like left, top, width, height; write left, top, left + width, top + height"
        raise UserError(f"a text box of {name} {problem}", found=f"{list(box)}, the image {width}x{height}", fix=fix)
