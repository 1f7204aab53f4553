"""What every section of a recipe is, and sizes as people write them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from glmkit.errors import UserError
from glmkit.sizes import parse_size, suggested_size


class Section(BaseModel):
    """A recipe section: frozen, unknown keys refused; the text under a field says what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


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
