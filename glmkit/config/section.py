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
        raise UserError("a size is WIDTHxHEIGHT in pixels", found=text[:80], fix="--size 256x256")
    return int(sides[2]), int(sides[1])


def is_size(value: str | None) -> str | None:
    """Validate the field of a section that holds a size."""
    try:
        if value is not None and min(parse_size(value)) < 32:
            raise ValueError("an image has at least 32x32 pixels")
    except UserError as error:
        raise ValueError(error.what) from error
    return value
