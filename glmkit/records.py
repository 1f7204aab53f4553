"""The frozen records that pass between stages; each is one line of a JSONL file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
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
        names = {item.name for item in fields(cls)}
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
    """One prompt of a suite. `texts` is what the image must show, written out, never parsed from `prompt`.

    `ground_truth` is the same as a public benchmark compares it, where its formula reads more than the texts. `size` is
    WIDTHxHEIGHT in pixels, empty where any will do.
    """

    id: str
    prompt: str
    texts: tuple[str, ...] = ()
    split: str = "all"
    language: str = "en"
    ground_truth: str = ""
    size: str = ""


@dataclass(frozen=True)
class Request(Record):
    """One prompt, one seed, one size, one image; the same request always gives the same image.

    `height` and `width` are pixels, multiples of 32. `sources` are paths of images to edit (0 to 3).
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
    """One image that was made, or the error that prevented it. `file` is relative to the run folder."""

    id: str
    prompt_id: str
    prompt: str
    seed: int
    file: str | None = None
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Score(Record):
    """How one image was scored, or the error that prevented it.

    `counts` maps a metric to (numerator, denominator); the value of a set of rows is sum / sum. It is empty when
    `error` is set: a failed image is missing, never a 0. `read` holds the lines that were compared, in reading order.
    """

    id: str
    prompt_id: str
    seed: int
    split: str
    language: str
    expected: tuple[str, ...]
    read: tuple[str, ...] = ()
    counts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    error: str | None = None

    def value(self, metric: str) -> float | None:
        """The metric of this image alone; None when it was not scored."""
        numerator, denominator = self.counts.get(metric, (0, 0))
        return numerator / denominator if denominator else None


@dataclass(frozen=True)
class Summary(Record):
    """The pooled scores of a run. `scores` maps a metric to {value, low, high}, a 95 % interval over prompts.

    `n_scored` and `n_total` count images, `n_prompts` the prompts behind the intervals. `splits` maps a split to
    {n_scored, n_total, n_prompts, scores}. `metrics` maps a metric to {direction, definition}. A value is None when
    nothing was scored, an interval when there are fewer than two prompts. `alignment` says which CLIP gave its cosine,
    `distances` are rows of `Distance`; both are empty when nobody asked.

    `family` says what the scores may be called: "official" (the benchmark's OCR engine, weights and all its images)
    or "formula of X, OCR engine Y"; `why_not_official` says what differs then.
    """

    suite: str
    model: str
    adapters: tuple[str, ...]
    n_scored: int
    n_total: int
    n_prompts: int
    scores: Mapping[str, Mapping[str, float | None]]
    splits: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, str]]
    ocr: str
    bootstrap: Mapping[str, Any]
    alignment: Mapping[str, Any] = field(default_factory=dict)
    distances: tuple[Mapping[str, Any], ...] = ()
    family: str = ""
    why_not_official: tuple[str, ...] = ()


@dataclass(frozen=True)
class Distance(Record):
    """How far the images of a run are from those of a reference set; lower is nearer.

    `metric` is fid, kid or cmmd, or a name of its own for other features. `value` compares `n` images of each side,
    `floor` `n_floor` images of the set with as many others of it: what a perfect imitation would get. `indicative`:
    too few images for this distance. `common_prompts` of the `prompts` of the run are prompts of the set, too.
    `formats` counts the files behind each side (run, reference) by their kind, PNG or JPEG: compression is part of a
    distance. `conventions` are those of the features.
    """

    reference: str
    metric: str
    value: float
    floor: float
    n: int
    n_floor: int
    n_run: int
    n_reference: int
    indicative: bool
    prompts: int
    common_prompts: int
    formats: Mapping[str, Mapping[str, int]]
    definition: str
    conventions: Mapping[str, Any]
