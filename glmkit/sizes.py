"""Sizes as people write them: WIDTHxHEIGHT in pixels."""

from __future__ import annotations

import re

from glmkit.errors import UserError


def parse_size(text: str) -> tuple[int, int]:
    """Read `WIDTHxHEIGHT` in pixels as (height, width). Raises UserError when it is not of that form."""
    sides = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text.lower())
    if sides is None:
        raise UserError("a size is WIDTHxHEIGHT in pixels", found=text[:80], fix=suggested_size(text))
    return int(sides[2]), int(sides[1])


def suggested_size(value: object) -> str:
    """Write the one or two numbers in a value as a size, a square of one; 256x256 where that is no size."""
    sides = re.findall(r"[0-9.]+", str(value)) if isinstance(value, str | int | float | list) else []
    sides *= 2 if len(sides) == 1 else 1
    is_size = len(sides) == 2 and all(re.fullmatch(r"[0-9]{2,6}", side) and int(side) >= 32 for side in sides)
    return "x".join(sides) if is_size else "256x256"
