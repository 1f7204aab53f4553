"""One file per reward, which gives an image a number; `text.py` is the reward `text`, in recipes NAME or NAME:WHAT.

Its module has

- `ABOUT`: what it is and its range, for people,
- `MIN_STD`: the smallest standard deviation within a group that means something,
- `check(what)`: UserError when it lacks something here; starts nothing,
- `load(what, device) -> Reward`.

A reward says nothing of a prompt that it cannot judge, such as `text` of one without texts. Whatever else goes wrong
with an image is the image's error: it is never rewarded with 0.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from PIL import Image

import glmkit
from glmkit import worker_processes
from glmkit.config.rewards import RewardSettings
from glmkit.errors import UserError, one_line
from glmkit.evaluation.named_files import NamedFiles, find
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.ocr.lines import OcrError, OcrResult, RecognizedLine, confident
from glmkit.evaluation.ocr.process import OcrProcesses
from glmkit.evaluation.suites.shared.base import MAX_ANSWER_TOKENS
from glmkit.extras import require
from glmkit.hashing import json_sha256
from glmkit.records import Prompt, Record
from glmkit.training.rl import monitors
from glmkit.training.rl.scoring import Failed, Found, ask
from glmkit.worker_processes import ProcessDiedError, WorkerProcesses

if TYPE_CHECKING:
    from glmkit.evaluation.catalogue import CatalogueEntry

_FILES = NamedFiles(__name__, "reward")
names, resolve = _FILES.names, _FILES.resolve


@dataclass(frozen=True)
class RewardSample:
    """An image in RGB to be rewarded, and `base`, the image that the model without adapters generates of its prompt.

    `lines` and `base_lines` are what OCR recognized in the two, in reading order; `Rewards` reads them. `condition` is
    the first image that the prompt edits, None where there is none.
    """

    prompt: Prompt
    image: Image.Image
    base: Image.Image | None = None
    lines: Sequence[RecognizedLine] = ()
    base_lines: Sequence[RecognizedLine] = ()
    condition: Image.Image | None = None


@dataclass(frozen=True)
class RewardScore(Record):
    """Hold what each reward gives an image, by name, those aside that say nothing of its prompt; or the error.

    `is_empty`: a gate found an image in which there is next to nothing, and every reward is at most 0. `read` is what
    monitors want of the text in it (`monitors.texts`).
    """

    parts: Mapping[str, float] = field(default_factory=dict)
    is_empty: bool = False
    error: str | None = None
    read: Mapping[str, float] = field(default_factory=dict)

    def total(self, weights: Mapping[str, float]) -> float | None:
        """Add up the weighted rewards as they are; None of an image with an error."""
        return None if self.error is not None else sum(weights[name] * value for name, value in self.parts.items())


class Reward(Protocol):
    """Score one image. `reads_text`: it needs `lines`; `needs_base`: an image of the base model.

    `gates`: an image to which it gives 0 is empty. `is_slow`: it holds a core for long, and `load(what, "cpu")` in a
    process of its own scores alike. `identity` names what decides its numbers beside this package: weights, and how
    they are used.
    """

    reads_text: bool
    needs_base: bool
    gates: bool
    is_slow: bool
    identity: str

    def score(self, sample: RewardSample) -> float | None:
        """Score an image, the more the better; None where it says nothing of the prompt.

        A UserError concerns all images and ends the run; any other exception is the error of this one.
        """
        ...


class Rewards:
    """Score images by the rewards of `settings`; learned ones compute on `device`, OCR in processes of its own, as do
    slow rewards of many images.

    `monitored`: where a reward has text read, that of base images is read, too, and compared.
    UserError for an unknown reward, and for what one lacks here. Ends its processes when it is closed.
    """

    def __init__(self, settings: RewardSettings, device: str = "cpu", *, monitored: bool = False) -> None:
        check(settings)
        self.weights: Mapping[str, float] = settings.weights
        modules = {name: find(resolve(name)) for name in settings.weights}
        self.min_stds: Mapping[str, float] = {name: module.MIN_STD for name, (module, _) in modules.items()}
        self._rewards: dict[str, Reward] = {name: module.load(what, device) for name, (module, what) in modules.items()}
        self.reads_text = any(reward.reads_text for reward in self._rewards.values())
        self.needs_base = any(reward.needs_base for reward in self._rewards.values())
        self._needs_base_text = any(reward.reads_text and reward.needs_base for reward in self._rewards.values())
        self._monitored = monitored and self.reads_text
        self._engine = engines.resolve(settings.ocr) if self.reads_text else ""
        self._ocr = OcrProcesses(self._engine, dense=True) if self.reads_text else None
        self._slow = {name: resolve(name) for name, reward in self._rewards.items() if reward.is_slow}
        self._processes: WorkerProcesses | None = None

    @property
    def identity(self) -> str:
        """Name what decides the rewards of an image, in 16 hexadecimal digits: OCR, weights and version; no weights of
        the sum.
        """
        parts = {name: reward.identity for name, reward in self._rewards.items()}
        if self.reads_text:
            engine, location = engines.find(self._engine)
            parts["ocr"] = engine.identity(location).key
        return json_sha256({**parts, "glmkit": glmkit.__version__})[:16]

    def score(self, samples: Sequence[RewardSample]) -> list[RewardScore]:
        """Score images, in their order; each is scored as soon as it is read, while OCR reads the others."""
        if self._slow and self._processes is None and worker_processes.worth_it(len(samples)):
            slow = (f"{name}={where}" for name, where in self._slow.items())
            self._processes = WorkerProcesses("glmkit.training.rl.scoring:scorer", *slow, inputs=len(samples))
        read = {
            index: self._begin(samples[index], lines, base_lines) for index, lines, base_lines in self._read(samples)
        }
        return [one if isinstance(one := read[index], RewardScore) else one() for index in range(len(samples))]

    def _begin(
        self, sample: RewardSample, lines: OcrResult, base_lines: OcrResult
    ) -> RewardScore | Callable[[], RewardScore]:
        """Score an image that was read, but for what processes still compute: then returns what waits for it."""
        if self.needs_base and sample.base is None:
            return RewardScore(error="there is no image of the base model to compare it with")
        if isinstance(lines, OcrError):
            return RewardScore(error=f"OCR: {lines}")
        if isinstance(base_lines, OcrError) and self._needs_base_text:
            return RewardScore(error=f"OCR of the base image: {base_lines}")
        known = () if isinstance(base_lines, OcrError) else confident(base_lines)
        sample = replace(sample, lines=confident(lines), base_lines=known)
        if self._processes is None:
            return self._score(sample, {})
        waiting = self._processes.submit(sample if self.needs_base else replace(sample, base=None))
        quick = {name: ask(reward, sample) for name, reward in self._rewards.items() if name not in self._slow}
        return lambda: self._score(sample, {**quick, **self._slow_ones(waiting)})

    def _slow_ones(self, waiting: Future[dict[str, Found]]) -> Mapping[str, Found]:
        """Wait for what a process finds; one that died costs the error of its image."""
        try:
            return waiting.result()
        except ProcessDiedError as error:
            return dict.fromkeys(self._slow, Failed(one_line(error)))

    def _read(self, samples: Sequence[RewardSample]) -> Iterator[tuple[int, OcrResult, OcrResult]]:
        """Recognize the text in all images, each content once; yields numbers of samples as they are read."""
        if self._ocr is None:
            yield from ((index, (), ()) for index in range(len(samples)))
            return
        reads_base = self._needs_base_text or self._monitored
        with tempfile.TemporaryDirectory() as name:
            files: dict[tuple[tuple[int, int], bytes], Path] = {}

            def file_of(image: Image.Image) -> Path:
                pixels = image.convert("RGB")
                key = (pixels.size, pixels.tobytes())
                if key not in files:
                    files[key] = Path(name) / f"{len(files)}.png"
                    pixels.save(files[key], compress_level=0)
                return files[key]

            own: list[tuple[Path, Path | None]] = []
            waiting: dict[Path, list[int]] = {}
            for index, sample in enumerate(samples):
                own.append((file_of(sample.image), file_of(sample.base) if sample.base and reads_base else None))
                for file in {*filter(None, own[index])}:
                    waiting.setdefault(file, []).append(index)
            found: dict[Path, OcrResult] = {}
            for file, result in self._ocr.recognize(dict.fromkeys(files.values(), MAX_ANSWER_TOKENS)):
                found[file] = result
                for index in waiting[file]:
                    image, base = own[index]
                    if image in found and (base is None or base in found):
                        yield index, found[image], found[base] if base else ()

    def _score(self, sample: RewardSample, known: Mapping[str, Found]) -> RewardScore:
        """Put the rewards of an image together; those that are not `known` are computed."""
        parts: dict[str, float] = {}
        is_empty = False
        for name, reward in self._rewards.items():
            value = known[name] if name in known else ask(reward, sample)
            if isinstance(value, Failed):
                return RewardScore(error=f"{name}: {value.reason}")
            if value is not None:
                parts[name] = value
                is_empty |= reward.gates and value == 0
        if is_empty:
            parts = {name: min(value, 0.0) for name, value in parts.items()}
        read = monitors.texts(sample.prompt.texts, sample.lines, sample.base_lines) if self._monitored else {}
        return RewardScore(parts, is_empty, read=read)

    def close(self) -> None:
        """End the processes."""
        if self._ocr is not None:
            self._ocr.close()
        if self._processes is not None:
            self._processes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def check(settings: RewardSettings) -> None:
    """UserError for a reward that is misspelt or lacks something here; starts nothing."""
    require("rapidfuzz", "a reward")
    for name in settings.weights:
        module, what = find(resolve(name))
        module.check(what)
    engine, _ = engines.find(engines.resolve(settings.ocr))
    engine.check()


def catalogue() -> list[CatalogueEntry]:
    """List the rewards, for `glmkit list`."""
    from glmkit.evaluation.catalogue import CatalogueEntry

    return [CatalogueEntry("reward", name, find(resolve(name))[0].ABOUT) for name in names()]


def refuse_argument(name: str, what: str) -> None:
    """UserError when something stands behind the name of a reward that takes nothing there."""
    if what:
        raise UserError(f"the reward {name} takes nothing after its name", found=f"{name}:{what}", fix=name)
