"""Say which settings leave out arithmetic, and find them among others: whatever is not exact is asked for, and said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glmkit.records import Request

# How a model holds its weights: as they are, or its layers in 8 bits, or in 4 and 8.
PRECISIONS = ("exact", "8bit", "4bit")
# Settings that leave out arithmetic, at the values that leave out none: those of a request, and those of all.
EXACT_REQUEST: Mapping[str, Any] = {name: getattr(Request, name) for name in ("reuse", "guided", "vae_tiling")}
EXACT: Mapping[str, Any] = {**EXACT_REQUEST, "precision": PRECISIONS[0]}


def shortcuts(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Return those of the settings of a request, a run or an image that leave out arithmetic; empty: it is exact."""
    return {name: settings[name] for name, exact in EXACT.items() if settings.get(name, exact) != exact}
