"""One file per kind of model that is not ours: `diffusers.py` generates for `--model diffusers:NAME`.

Its module has `load(name) -> Baseline`, which loads no weights yet; UserError with what to type when something is
missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from glmkit.errors import UserError
from glmkit.evaluation.named_files import NamedFiles

if TYPE_CHECKING:
    from PIL.Image import Image

    from glmkit.generation.options import InferenceOptions
    from glmkit.records import Request

_FILES = NamedFiles(__name__, "kind of model")


@dataclass(frozen=True)
class BaselineDefaults:
    """Hold what counts when nothing is given: pixels, steps and guidance, None where the model has no such thing."""

    height: int
    width: int
    steps: int | None
    guidance: float | None

    @property
    def sampling(self) -> dict[str, Any]:
        """Return nothing: a request cannot tell a baseline how to sample."""
        return {}


class Baseline(Protocol):
    """Generate images. `is_local`: on this machine's device. `workers`: how many requests it takes at the same time."""

    defaults: BaselineDefaults
    is_local: bool
    workers: int

    def identity(self) -> dict[str, Any]:
        """Name what decides the images, beside the requests, as JSON values."""
        ...

    def prepare(self, device: str, dtype: str, options: InferenceOptions) -> None:
        """Load what generation needs."""
        ...

    def generate(self, request: Request) -> tuple[Image, Mapping[str, str]]:
        """Generate an image, with what is to be stored in its file. Called by `workers` threads.

        A UserError concerns all images and ends the run; any other exception is the error of this image.
        """
        ...

    def progress_note(self) -> str:
        """Say what to show beside the progress, like the cost; may be empty."""
        ...


def names() -> list[str]:
    """List the kinds."""
    return _FILES.names()


def find(model: str) -> Baseline | None:
    """Find the baseline that KIND:NAME names; None for a model of ours. UserError for an unknown kind or no name."""
    kind, colon, name = model.partition(":")
    if not colon or "/" in kind or Path(model).exists():
        return None
    module = _FILES.load(kind)
    if not name:
        raise UserError(f"{model} names no model", fix=f"--model {kind}:NAME")
    return cast(Baseline, module.load(name))
