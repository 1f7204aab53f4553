"""What every section of a recipe is, and sizes as people write them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from glmkit.errors import UserError


class Section(BaseModel):
    """A recipe section: frozen, unknown keys refused; the text under a field says what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def parse_size(text: str) -> tuple[int, int]:
    """Read `WIDTHxHEIGHT` in pixels as (height, width). Raises UserError when it is not of that form."""
    width, x, height = text.lower().partition("x")
    if not x or not width.isdigit() or not height.isdigit():
        raise UserError("a size is WIDTHxHEIGHT in pixels", found=text, fix="--size 256x256")
    return int(height), int(width)
