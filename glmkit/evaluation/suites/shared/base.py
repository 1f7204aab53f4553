"""What a suite is: prompts, how their images are found and scored, and when its numbers may be called official."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.errors import UserError, shorten
from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.layouts import GridTile, ImageFiles
from glmkit.files import read_jsonl
from glmkit.records import Prompt, Score
from glmkit.shipped import did_you_mean
from glmkit.text import some

if TYPE_CHECKING:
    from PIL.Image import Image

Counts = dict[str, tuple[float, float]]  # metric -> (numerator, denominator)
MAX_ANSWER_TOKENS = 1024


@dataclass(frozen=True)
class OfficialProtocol:
    """Say how a public benchmark measures: a score made with anything else has its formula but not its name.

    `engine` and `weights` (file -> sha256) are those of the OCR engine, `files` (prompt file -> sha256) are known for
    some benchmarks only. `grids`: its images come as grids that are cut and saved again before OCR.
    """

    benchmark: str
    engine: str
    weights: Mapping[str, str]
    prompts: int
    images_per_prompt: int
    files: Mapping[str, str] = field(default_factory=dict)
    grids: bool = False


class Suite(ABC):
    """Hold prompts and score images. `metrics` maps each metric to its direction and definition, the leading first."""

    metrics: Mapping[str, Mapping[str, str]]
    official: OfficialProtocol | None = None
    reads_text = True  # an OCR engine is needed
    is_slow = False  # scoring an image holds a core for long

    @abstractmethod
    def files(self, data: Path | None) -> list[Path]:
        """List the prompt files, in the user's folder `data` for public benchmarks; UserError when they are missing."""

    @abstractmethod
    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the prompts of these files, in their order."""

    @abstractmethod
    def counts(self, prompt: Prompt, lines: Sequence[RecognizedLine], image: Path) -> Counts:
        """Score one image file; `lines` are the recognized lines, in reading order."""

    def references(self, _prompt: Prompt) -> Mapping[str, Image]:
        """Give images that belong to a prompt: `source` is what the model edits, `expected` what should come out."""
        return {}

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find the images in a folder, which may be few or none."""
        return layouts.by_name(folder, prompts)

    def image_names(self, prompt: Prompt) -> str:
        """Say how the images of a prompt should be called."""
        return f"{prompt.id}.png or {prompt.id}_0.png"

    def find(self, images: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find the images in a folder or in the only one inside that has some; UserError when there is none."""
        for folders in layouts.nested(images):
            if found := {folder: files for folder in folders if (files := self.images_in(folder, prompts))}:
                return found[layouts.only(list(found), "images of the suite")]
        raise layouts.no_image(images, self.image_names(prompts[0]))

    def unmatched(self, images: Path, files: ImageFiles, prompts: Sequence[Prompt], every: Sequence[Prompt]) -> str:
        """Say which images beside those that were found belong to no prompt; "" when all of them do.

        `files` are what `find` has found for `prompts` in the folder `images`; `every` are all prompts of the suite,
        whose images may be there, too.
        """
        found = {layouts.file_of(file) for file in files.values()}
        folders = sorted({images, *(path.parent for path in found)})
        here = [path for folder in folders for path in layouts.image_files(folder)]
        if len(every) > len(prompts):
            try:
                others = [self.images_in(folder, every) for folder in folders]
            except UserError:  # two images of a prompt that is not asked for: no matter here
                return ""
            found |= {layouts.file_of(file) for files in others for file in files.values()}
        names = [path.name for path in here if path not in found]
        if not names:
            return ""
        what = f"{len(names):,} of {len(here):,} image files match no prompt and are not scored: {some(names)}"
        return shorten(f"{what} (names like {self.image_names(prompts[0])} do)")

    def max_answer_tokens(self, _prompt: Prompt) -> int:
        """Limit the answer of an OCR language model."""
        return MAX_ANSWER_TOKENS


@dataclass(frozen=True)
class BuiltInSuite(Suite):
    """Hold a suite of ours: prompts in one JSONL file that comes with glmkit. It looks at every pixel."""

    is_slow = True

    prompts: Path
    metrics: Mapping[str, Mapping[str, str]]
    score: Callable[[Prompt, Sequence[RecognizedLine], Path], Counts]
    images: Callable[[Prompt], Mapping[str, Image]] = lambda _: {}

    def files(self, data: Path | None) -> list[Path]:
        """Give the one file; UserError when the user names a folder."""
        if data is not None:
            raise UserError("this suite brings its own prompts", found=f"--data {data}", fix="leave out --data")
        return [self.prompts]

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts as records; UserError for a prompt without an expected text."""
        (path,) = files
        prompts = [Prompt.from_dict(line) for line in read_jsonl(path)]
        for prompt in prompts:
            if not prompt.texts or not all(text.strip() for text in prompt.texts):
                raise UserError(f"{path}: prompt {prompt.id!r} has no expected text", found=list(prompt.texts))
        return prompts

    def counts(self, prompt: Prompt, lines: Sequence[RecognizedLine], image: Path) -> Counts:
        """Score by the suite's function."""
        return self.score(prompt, lines, image)

    def references(self, prompt: Prompt) -> Mapping[str, Image]:
        """Give the images of the suite's function."""
        return self.images(prompt)


def files_in(suite: str, data: Path | None, files: Callable[[Path], list[Path]], fix: str) -> list[Path]:
    """List the prompt files of a public benchmark in the user's folder, or in the only one inside that has them.

    UserError with `fix` when one is missing.
    """
    if data is None:
        raise UserError(f"{suite} needs the prompt files of the benchmark", fix=fix)
    for folders in layouts.nested(data) if data.is_dir() else ():
        if found := [folder for folder in folders if any(path.is_file() for path in files(folder))]:
            data = layouts.only(found, "prompt files of the benchmark")
            break
    paths = files(data)
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing} does not exist", fix=did_you_mean(data, fix))
    return paths


def family(suite: Suite, identity: EngineIdentity, why_not: Sequence[str], verb: str = "read") -> str:
    """Say what a score may be called: official, or the formula of a benchmark on another engine's lines or answers.

    `verb` is what the engine of `identity` does with images: it has "read", "judged" or "measured" them.
    """
    if suite.official is None:
        return f"{verb} by {identity.engine}"
    if not why_not:
        return "official"
    if verb == "judged":
        return f"questions of {suite.official.benchmark}, judge {identity.engine}"
    if verb == "measured":
        return f"formula of {suite.official.benchmark}, measured by {identity.engine}"
    return f"formula of {suite.official.benchmark}, OCR engine {identity.engine}"


def why_not_official(
    official: OfficialProtocol,
    identity: EngineIdentity,
    files: Mapping[str, str],
    scores: Sequence[Score],
    images: ImageFiles | None,
    shortcuts: Sequence[str] = (),
    verb: str = "read",
) -> tuple[str, ...]:
    """Say in words what separates these scores from the benchmark's own; nothing when they are official.

    `files` are the sha256 of the prompt files, `images` the given image files, None when a model generated them.
    `shortcuts` are settings of generation that are not exact, such as "reuse 2"; `verb` is that of `family`.
    """
    reasons = [f"generated by a shortcut: {', '.join(shortcuts)}"] if shortcuts else []
    if identity.engine != official.engine:
        reasons.append(f"{verb} by {identity.engine}, not by {official.engine}")
    elif dict(identity.weights) != dict(official.weights):
        wrong = [name for name, digest in official.weights.items() if identity.weights.get(name) != digest]
        names = ", ".join(wrong or sorted(set(identity.weights) - set(official.weights)))
        reasons.append(f"other weights: {names}")
    for name, digest in official.files.items():
        if digest not in (given for path, given in files.items() if f"/{path}".endswith(f"/{name}")):
            reasons.append(f"{name} is not the published file")
    if official.grids and not (images and all(isinstance(image, GridTile) for image in images.values())):
        reasons.append("the images were not cut from the benchmark's grids")
    scored = Counter(score.prompt_id for score in scores if score.error is None)
    whole = sum(count == official.images_per_prompt for count in scored.values())
    wanted = official.prompts * official.images_per_prompt
    if len(scores) != wanted or whole != official.prompts:
        reasons.append(f"{scored.total()} of {wanted} images ({official.images_per_prompt} per prompt)")
    return tuple(reasons)
