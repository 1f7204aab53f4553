"""What every section of a recipe is, and sizes as people write them."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from glmkit.errors import UserError


class Section(BaseModel):
    """A recipe section: frozen, unknown keys refused; the text under a field says what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


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


def is_size(value: object) -> object:
    """Validate what a recipe gives for a size, before its type is: people write one number, or a list of two."""
    if value is None:
        return value
    try:
        if not isinstance(value, str):
            raise ValueError(f"a size is WIDTHxHEIGHT in pixels, such as {suggested_size(value)}")
        if min(parse_size(value)) < 32:
            raise ValueError("an image has at least 32x32 pixels")
    except UserError as error:
        raise ValueError(f"{error.what}, such as {error.fix}") from error
    return value
