"""What a suite is: prompts, how their images are found and scored, and when its numbers may be called official."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.errors import UserError
from glmkit.evaluation.ocr.process import Identity
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.layouts import Found, Tile
from glmkit.files import read_jsonl
from glmkit.records import Prompt, Score

if TYPE_CHECKING:
    from PIL.Image import Image

Counts = dict[str, tuple[float, float]]  # metric -> (numerator, denominator)
ANSWER_TOKENS = 1024


@dataclass(frozen=True)
class Official:
    """With what a public benchmark measures: a score made with anything else has its formula but not its name.

    `reader` and `weights` (file -> sha256) are those of the OCR engine, `files` (prompt file -> sha256) are known for
    some benchmarks only. `tiles`: its images come as grids that are cut and saved again before they are read.
    """

    benchmark: str
    reader: str
    weights: Mapping[str, str]
    prompts: int
    images_a_prompt: int
    files: Mapping[str, str] = field(default_factory=dict)
    tiles: bool = False


class Suite(ABC):
    """Prompts and scores. `metrics` maps each metric to its direction and definition, the leading one first."""

    metrics: Mapping[str, Mapping[str, str]]
    official: Official | None = None

    @abstractmethod
    def files(self, data: Path | None) -> list[Path]:
        """The prompt files, in the user's folder `data` for public benchmarks; UserError when they are not there."""

    @abstractmethod
    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """The prompts of these files, in their order."""

    @abstractmethod
    def counts(self, prompt: Prompt, read: Sequence[str], image: Path) -> Counts:
        """The scores of one image; `read` holds the lines that OCR found, in reading order."""

    def references(self, prompt: Prompt) -> Mapping[str, Image]:
        """Images that belong to a prompt: `source` is what the model edits, `expected` what should come out."""
        return {}

    def find(self, images: Path, prompts: Sequence[Prompt]) -> Found:
        """The images in a folder, which may be few; UserError when there is none."""
        found = layouts.by_name(images, prompts)
        if not found:
            raise layouts.nothing_found(images, f"{prompts[0].id}.png or {prompts[0].id}_0.png")
        return found

    def answer_tokens(self, prompt: Prompt) -> int:
        """With how many tokens an OCR language model may answer."""
        return ANSWER_TOKENS


@dataclass(frozen=True)
class OwnSuite(Suite):
    """A suite of ours: prompts in one JSONL file that comes with glmkit."""

    prompts: Path
    metrics: Mapping[str, Mapping[str, str]]
    score: Callable[[Prompt, Sequence[str], Path], Counts]
    images: Callable[[Prompt], Mapping[str, Image]] = lambda prompt: {}

    def files(self, data: Path | None) -> list[Path]:
        if data is not None:
            raise UserError("this suite brings its own prompts", found=f"--data {data}", fix="leave out --data")
        return [self.prompts]

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        (path,) = files
        rows = [Prompt.from_dict(row) for row in read_jsonl(path)]
        for prompt in rows:
            if not prompt.texts or not all(text.strip() for text in prompt.texts):
                raise UserError(f"{path}: prompt {prompt.id!r} has no expected text", found=list(prompt.texts))
        return rows

    def counts(self, prompt: Prompt, read: Sequence[str], image: Path) -> Counts:
        return self.score(prompt, read, image)

    def references(self, prompt: Prompt) -> Mapping[str, Image]:
        return self.images(prompt)


def in_data(suite: str, data: Path | None, files: Callable[[Path], list[Path]], fix: str) -> list[Path]:
    """The prompt files of a public benchmark in the user's folder; UserError with `fix` when they are not there."""
    if data is None:
        raise UserError(f"{suite} needs the prompt files of the benchmark", fix=fix)
    found = files(data)
    missing = next((path for path in found if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing} does not exist", fix=fix)
    return found


def family(suite: Suite, reader: Identity, why_not: Sequence[str]) -> str:
    """What a score may be called: official, or the formula of a benchmark on another engine's reading."""
    if suite.official is None:
        return f"read by {reader.reader}"
    if not why_not:
        return "official"
    return f"formula of {suite.official.benchmark}, OCR engine {reader.reader}"


def why_not_official(
    official: Official, reader: Identity, files: Mapping[str, str], scores: Sequence[Score], images: Found | None
) -> tuple[str, ...]:
    """What separates these scores from the benchmark's own, in words; nothing when they are official.

    `files` are the sha256 of the prompt files, `images` the files that were found, None when a model drew them.
    """
    said = []
    if reader.reader != official.reader:
        said.append(f"read by {reader.reader}, not by {official.reader}")
    elif dict(reader.weights) != dict(official.weights):
        wrong = [name for name, digest in official.weights.items() if reader.weights.get(name) != digest]
        said.append(f"other weights: {', '.join(wrong or sorted(set(reader.weights) - set(official.weights)))}")
    for name, digest in official.files.items():
        if files.get(name) != digest:
            said.append(f"{name} is not the published file")
    if official.tiles and not (images and all(isinstance(image, Tile) for image in images.values())):
        said.append("the images were not cut from the benchmark's grids")
    done = Counter(score.prompt_id for score in scores if score.error is None)
    whole = sum(count == official.images_a_prompt for count in done.values())
    if len(scores) != official.prompts * official.images_a_prompt or whole != official.prompts:
        wanted = official.prompts * official.images_a_prompt
        said.append(f"{done.total()} of {wanted} images ({official.images_a_prompt} a prompt)")
    return tuple(said)
