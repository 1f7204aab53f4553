"""The frozen records that pass between stages; each is one line of a JSONL file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Never, TypedDict, TypeVar

from glmkit.errors import UserError
from glmkit.extras import require
from glmkit.files import iterate_jsonl, read_json
from glmkit.shapes import check_shape, type_hints

if TYPE_CHECKING:
    from pandas import DataFrame

SWEEP = "sweep.json"  # in the folder of a sweep: a list of `Combination`

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record:
    """Turn into a JSON object and back; lists become tuples."""

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values, records inside included."""
        return asdict(self)

    @classmethod
    def from_dict(cls: type[R], values: Any, where: str = "") -> R:
        """Make a record of a JSON object; UserError for a field that is unknown, missing or of another type.

        `where` says in errors where the object stands.
        """
        where = where or cls.__name__
        check_shape(values, Mapping[str, Any], where)
        names = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - names):
            fix = f"fields: {', '.join(sorted(names))}"
            raise UserError(f"{where}: {cls.__name__} has no field {unknown[0]!r}", found=values, fix=fix)
        hints = type_hints(cls)
        for name, value in values.items():
            check_shape(value, hints[name], where, name)
        try:
            return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
        except TypeError as error:
            raise UserError(f"{where}: incomplete {cls.__name__}: {error}", found=values) from error


def read_record(path: Path, kind: type[R]) -> R:
    """Read a JSON file that holds one record; UserError names the file and the field."""
    return kind.from_dict(read_json(path), str(path))


def read_records(path: Path, kind: type[R]) -> tuple[R, ...]:
    """Read a JSONL file of records; UserError names the file, the line and the field."""
    return tuple(kind.from_dict(one, f"{path}, line {n}") for n, one in enumerate(iterate_jsonl(path), start=1))


@dataclass(frozen=True)
class Question(Record):
    """Hold a yes-or-no question of a benchmark about the images of a prompt.

    `group` is what its answer counts for, `expected` whether yes is right. `parents` are the ids of questions that must
    be answered with yes before this one counts. `answer` is the right one where it is a word.
    """

    id: str
    text: str
    group: str
    expected: bool = True
    parents: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True)
class Answer(Record):
    """Hold what a judge answered, as it came, and what it was asked.

    `model` is the one that an endpoint names in its answer; tokens are 0 where they are not known.

    Where a message asks for probabilities, `probabilities` maps words to that of their first token, for each token of
    the answer: those that the message names, or in its order what an endpoint lists. `raw_probabilities` are the same
    before penalties on repetition and the like, where they are known. `is_ended`: the last of the tokens ends the
    answer and stands for no word.

    `date` is the day of an endpoint's answer (UTC, YYYY-MM-DD), for its model may change behind its name. `is_cut`: the
    answer may go on, or be thinking still, where the endpoint stopped it.
    """

    message: str
    text: str
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    probabilities: tuple[Mapping[str, float], ...] = ()
    raw_probabilities: tuple[Mapping[str, float], ...] = ()
    is_ended: bool = False
    date: str = ""
    is_cut: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values; those of probabilities and of endpoints only where there are some."""
        absent = [] if self.probabilities else [*_OF_PROBABILITIES]
        absent += [name for name in ("date", "is_cut") if not getattr(self, name)]
        return {name: value for name, value in super().to_dict().items() if name not in absent}


_OF_PROBABILITIES = ("probabilities", "raw_probabilities", "is_ended")


@dataclass(frozen=True)
class Prompt(Record):
    """Hold one prompt of a suite. `texts` is what the image must show, written out, never parsed from `prompt`.

    `ground_truth` is the same as a public benchmark compares it, where its formula reads more than the texts. `size` is
    WIDTHxHEIGHT in pixels, empty where any will do. `seed` is that of the first image; `steps` and `guidance` are None
    where those of the evaluation count. `condition_images` are paths of images to edit, and `glyph_texts` are the texts
    that the glyph encoder reads, None for those in quotes. `named` is what the prompt says of the image beside its
    texts, where a suite checks it, or where its image to edit is; empty elsewhere. `questions` are those that a judge
    answers. `error` says why there can be no image of this prompt, None where nothing speaks against it.
    """

    id: str
    prompt: str
    texts: tuple[str, ...] = ()
    split: str = "all"
    language: str = "en"
    ground_truth: str = ""
    size: str = ""
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    condition_images: tuple[str, ...] = ()
    glyph_texts: tuple[str, ...] | None = None
    named: Mapping[str, Any] = field(default_factory=dict, hash=False)
    questions: tuple[Question, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Request(Record):
    """Ask for one image: one prompt, one seed, one size; the same request always gives the same image.

    `height` and `width` are pixels, multiples of 32. `condition_images` are paths of images to edit (0 to 3).
    `steps` and `guidance` belong to the decoder; `temperature`, `top_p` and `top_k` to the autoregressive stage
    (the public checkpoint samples with 0.9 and 0.75, and transformers adds top-k 50). `texts` are those that the glyph
    encoder reads; None for those in quotes, as published. `reuse` and `guided` are shortcuts of denoising: the
    decoder's blocks run in every `reuse`-th step (1 to 3), and a share `guided` of the steps, from the first, uses
    guidance (above 0, at most 1). With `vae_tiling` the VAE decodes large images in tiles.
    """

    id: str
    prompt: str
    seed: int = 0
    height: int = 256
    width: int = 256
    condition_images: tuple[str, ...] = ()
    steps: int = 30
    guidance: float = 1.5
    temperature: float = 0.9
    top_p: float = 0.75
    top_k: int = 50
    texts: tuple[str, ...] | None = None
    reuse: int = 1
    guided: float = 1.0
    vae_tiling: bool = False


# How the public checkpoint samples prior tokens; a model's own generation config may say otherwise.
SAMPLING: Mapping[str, Any] = {name: getattr(Request, name) for name in ("temperature", "top_p", "top_k")}


@dataclass(frozen=True)
class Generation(Record):
    """Say what became of a request: the image, or the error that prevented it. `file` is relative to the run folder.

    `prompt` is the original where a language model rewrote it, `rewritten` then what the model of the image got.
    `peak_memory_gib` is the most memory in use since the run began to generate: of the GPU, or without one of the
    process. None where it is not known.
    """

    id: str
    prompt_id: str
    prompt: str
    seed: int
    file: str | None = None
    seconds: float | None = None
    error: str | None = None
    rewritten: str | None = None
    peak_memory_gib: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values; `rewritten` and `peak_memory_gib` only where there are any."""
        absent = [name for name in ("rewritten", "peak_memory_gib") if getattr(self, name) is None]
        return {name: value for name, value in super().to_dict().items() if name not in absent}


@dataclass(frozen=True)
class Score(Record):
    """Hold the scores of one image, or the error that prevented them.

    `counts` maps a metric to (numerator, denominator); the value of a set of images is sum / sum. It is empty when
    `error` is set: a failed image is missing, never a 0. `expected` holds the texts that the image must show,
    `recognized_lines` the lines of text that OCR found and that were compared, in reading order.
    """

    id: str
    prompt_id: str
    seed: int
    split: str
    language: str
    expected: tuple[str, ...]
    recognized_lines: tuple[str, ...] = ()
    counts: Mapping[str, tuple[float | bool, float]] = field(default_factory=dict)
    error: str | None = None

    def value(self, metric: str) -> float | None:
        """Divide the counts of a metric for this image alone; None when it was not scored."""
        numerator, denominator = self.counts.get(metric, (0, 0))
        value = numerator / denominator if denominator else math.inf
        return value if math.isfinite(value) else None


class Interval(TypedDict):
    """A pooled score with its 95 % interval over prompts."""

    value: float | None
    low: float | None
    high: float | None


class Pooled(TypedDict):
    """The scores of some of the images of a run."""

    n_scored: int
    n_total: int
    n_prompts: int
    scores: Mapping[str, Annotated[Mapping[str, float | None], Interval]]


class MetricDefinition(TypedDict):
    """Define a metric."""

    direction: Literal["higher", "lower"]
    definition: str


class Alignment(TypedDict):
    """Say which CLIP gave the cosine; `clipscore` where its scale is that of published scores."""

    metric: str
    model: str
    weights_sha256: str
    prompts: int
    truncated_prompts: int
    clipscore: Annotated[Mapping[str, float | None], Interval] | None


class Rewriting(TypedDict):
    """Say what became of the prompts of a run: numbers, and for prompts that stayed as they are the reason by id."""

    rewriter: str
    prompts: int
    rewritten: int
    kept: Mapping[str, str]


@dataclass(frozen=True)
class Summary(Record):
    """Hold the pooled scores of a run. `scores` maps a metric to {value, low, high}, a 95 % interval over prompts.

    `n_scored` and `n_total` count images, `n_prompts` the prompts behind the intervals. `splits` maps a split to
    {n_scored, n_total, n_prompts, scores}. `metrics` maps a metric to {direction, definition}. A value is None when
    nothing was scored, an interval when there are fewer than two prompts. `alignment` says which CLIP gave its cosine,
    `distances` hold one `Distance` each; both are empty unless they were asked for.

    `family` says what the scores may be called: "official" (the benchmark's OCR engine, weights and all its images)
    or "formula of X, OCR engine Y"; `why_not_official` says what differs then. `ocr_limits` are sentences on what the
    OCR engine cannot read. `name` is what reports call the run; "" for its model and adapters.

    `rewriting` says who rewrote the prompts, how many of the `prompts` were `rewritten`, and why others were `kept`;
    empty where they are as they were written.

    Where a judge answered questions, `judge` says which and how its answers were read, `no_share` is the share of its
    answers that were no (of each split, too); elsewhere a summary has neither. `notes` are sentences on answers, on
    learned scores, and on image files without a prompt.
    """

    suite: str
    model: str
    adapters: tuple[str, ...]
    n_scored: int
    n_total: int
    n_prompts: int
    scores: Mapping[str, Annotated[Mapping[str, float | None], Interval]]
    splits: Mapping[str, Annotated[Mapping[str, Any], Pooled]]
    metrics: Mapping[str, Annotated[Mapping[str, str], MetricDefinition]]
    ocr: str
    bootstrap: Mapping[str, Any]
    alignment: Annotated[Mapping[str, Any], Alignment | Mapping[str, Never]] = field(default_factory=dict)
    distances: tuple[Annotated[Mapping[str, Any], Distance], ...] = ()
    family: str = ""
    why_not_official: tuple[str, ...] = ()
    name: str = ""
    ocr_limits: tuple[str, ...] = ()
    judge: str = ""
    no_share: float | None = None
    notes: tuple[str, ...] = ()
    rewriting: Annotated[Mapping[str, Any], Rewriting | Mapping[str, Never]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values; those of a judge and of rewritten prompts only where there are any."""
        absent = [] if self.judge else ["judge", "no_share", *([] if self.notes else ["notes"])]
        absent += [] if self.rewriting else ["rewriting"]
        return {name: value for name, value in super().to_dict().items() if name not in absent}

    def by_split(self) -> dict[str, Mapping[str, Any]]:
        """Map each split, and "all" where there are several, to {n_scored, n_total, n_prompts, scores[, no_share]}."""
        whole: dict[str, Any] = {
            "n_scored": self.n_scored,
            "n_total": self.n_total,
            "n_prompts": self.n_prompts,
            "scores": self.scores,
        }
        whole |= {"no_share": self.no_share} if self.judge else {}
        return dict(self.splits) if len(self.splits) == 1 else {**self.splits, "all": whole}

    def to_pandas(self) -> DataFrame:
        """Make a table of the scores: one line per split and metric, with value, low, high and n (prompts).

        Needs pandas, which comes with the extra `eval`.
        """
        require("pandas", "a table")
        import pandas

        lines = [
            {"split": split, "metric": metric, **interval, "n": pooled["n_prompts"]}
            for split, pooled in self.by_split().items()
            for metric, interval in pooled["scores"].items()
        ]
        return pandas.DataFrame(lines, columns=["split", "metric", "value", "low", "high", "n"])


@dataclass(frozen=True)
class Combination(Record):
    """Name one of the settings that a sweep compares, evaluated in the folder of that name.

    `steps` are those of the checkpoint, None where it is not known; `weight` is that of its adapter, 0 for the model
    without it. `adapters` are all of the evaluation, each `DIR` or `DIR:WEIGHT`.
    """

    steps: int | None
    weight: float
    guidance: float
    adapters: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return what people call it."""
        steps = [f"step {self.steps}"] * (self.steps is not None)
        adapter = [*steps, f"weight {self.weight:g}"] if self.weight else ["without the adapter"]
        return ", ".join([*adapter, f"guidance {self.guidance:g}"])

    @property
    def folder(self) -> str:
        """Return the name of its folder."""
        steps = [f"step-{self.steps}"] * (self.steps is not None)
        adapter = [*steps, f"weight-{self.weight:g}"] if self.weight else ["base"]
        return "_".join([*adapter, f"guidance-{self.guidance:g}"])


@dataclass(frozen=True)
class Distance(Record):
    """Say how far the images of a run are from those of a reference set; lower is nearer.

    `metric` is fid, kid or cmmd, or a name of its own for other features. `value` compares `n` images of each side,
    `self_distance` `n_self_distance` images of the set with as many others of it: what a perfect imitation would get.
    `indicative`: too few images for this distance. `common_prompts` of the `prompts` of the run are prompts of the set,
    too. `formats` counts the files behind each side (run, reference) by their kind, PNG or JPEG: compression is part
    of a distance. `conventions` are those of the features.
    """

    reference: str
    metric: str
    value: float
    self_distance: float
    n: int
    n_self_distance: int
    n_run: int
    n_reference: int
    indicative: bool
    prompts: int
    common_prompts: int
    formats: Mapping[str, Mapping[str, int]]
    definition: str
    conventions: Mapping[str, Any]
