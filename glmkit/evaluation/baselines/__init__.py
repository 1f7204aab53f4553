"""One file a kind of model that is not ours: `diffusers.py` draws for `--model diffusers:PLACE`.

Its module has `load(place) -> Baseline`, which loads no weights yet; UserError with what to type when something is
missing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from glmkit.errors import UserError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

    from glmkit.generation.options import InferenceOptions
    from glmkit.records import Request


@dataclass(frozen=True)
class Usual:
    """What is drawn when nothing is said: pixels, and steps and guidance, None where the model has no such thing."""

    height: int
    width: int
    steps: int | None
    guidance: float | None


class Baseline(Protocol):
    """`local`: it draws on this machine's device. `workers`: as many requests as it can draw at the same time."""

    usual: Usual
    local: bool
    workers: int

    def identity(self) -> dict[str, Any]:
        """What decides the images, beside the requests, as JSON values."""
        ...

    def start(self, device: str, dtype: str, options: InferenceOptions) -> None:
        """Load what drawing needs."""
        ...

    def draw(self, request: Request) -> tuple[Image, Mapping[str, str]]:
        """An image, and what is to be remembered with it. Called by `workers` threads.

        A UserError concerns all images and ends the run; any other exception is the error row of this image.
        """
        ...

    def note(self) -> str:
        """What to show beside the progress, like the cost; may be empty."""
        ...


def names() -> list[str]:
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find(model: str) -> Baseline | None:
    """The baseline that KIND:PLACE names; None for a model of ours. UserError for an unknown kind or no place."""
    kind, colon, place = model.partition(":")
    if not colon or "/" in kind or Path(model).exists():
        return None
    if kind not in names():
        raise unknown("kind of model", kind, names())
    if not place:
        raise UserError(f"{model} names no model", fix=f"--model {kind}:NAME")
    module = importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")
    return cast(Baseline, module.load(place))
