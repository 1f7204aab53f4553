"""The frozen records that pass between stages; each is one line of a JSONL file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from glmkit.errors import UserError

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record:
    """A record that turns into a JSON object and back. Lists become tuples."""

    def to_row(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_row(cls: type[R], row: dict[str, Any]) -> R:
        names = {field.name for field in fields(cls)}
        unknown = sorted(set(row) - names)
        if unknown:
            raise UserError(
                f"{cls.__name__} has no field {unknown[0]!r}", found=row, fix=f"fields: {', '.join(sorted(names))}"
            )
        try:
            return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
        except TypeError as error:
            raise UserError(f"incomplete {cls.__name__}: {error}", found=row) from error


@dataclass(frozen=True)
class Prompt(Record):
    """One prompt of a suite. `texts` is what the picture must show, written out, never parsed from `prompt`."""

    id: str
    prompt: str
    texts: tuple[str, ...] = ()
    split: str = "all"
    language: str = "en"


@dataclass(frozen=True)
class Request(Record):
    """One prompt, one seed, one size, one picture; the same request always gives the same picture.

    `height` and `width` are pixels, multiples of 32. `sources` are paths of pictures to edit (0 to 3).
    `steps` and `guidance` belong to the decoder; `temperature`, `top_p` and `top_k` to the autoregressive stage
    (the public checkpoint samples with 0.9 and 0.75, and transformers adds top-k 50).
    """

    id: str
    prompt: str
    seed: int = 0
    height: int = 256
    width: int = 256
    sources: tuple[str, ...] = ()
    steps: int = 30
    guidance: float = 1.5
    temperature: float = 0.9
    top_p: float = 0.75
    top_k: int = 50


@dataclass(frozen=True)
class Generation(Record):
    """One picture that was made, or the error that prevented it. `file` is relative to the run folder."""

    id: str
    prompt_id: str
    prompt: str
    seed: int
    file: str | None = None
    seconds: float | None = None
    error: str | None = None
