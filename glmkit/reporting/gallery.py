"""The cards of the gallery: every common prompt with the images of all runs, marked and ranked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from glmkit.errors import UserError
from glmkit.records import Generation, Score
from glmkit.reporting.compare import Comparison
from glmkit.reporting.images import Thumbnail, thumbnail
from glmkit.reporting.load import EvalRun
from glmkit.reporting.marking import Marking, mark
from glmkit.reporting.ranking import change, prompt_values, ranks

LONG = 100  # prompts, from which on it takes long enough to be shown
REFERENCES = ("source", "expected")  # what a suite may give with a prompt: an image to edit, and the right answer


@dataclass(frozen=True)
class Figure:
    """One image of one run, or the reason why there is none (`error`), or neither when the run has no such seed.

    `original` is the file that `image` is a thumbnail of.
    """

    run: str
    seed: int
    image: Thumbnail | None = None
    original: Path | None = None
    error: str | None = None
    values: tuple[tuple[str, float | None], ...] = ()
    marking: Marking | None = None


@dataclass(frozen=True)
class Card:
    """One prompt. `figures` go seed by seed, run by run; `places` maps an order to the place of this card in it.

    `flaws` holds "error" when an image failed and "text" when a text was not read as expected. `changes`
    holds second run minus first run for each metric, and is empty for another number of runs. `references` are the
    images that the suite gives with the prompt, by name.
    """

    id: str
    split: str
    prompt: str
    expected: tuple[str, ...]
    figures: tuple[Figure, ...]
    places: dict[str, int]
    flaws: tuple[str, ...]
    changes: tuple[tuple[str, float], ...]
    references: tuple[tuple[str, Thumbnail], ...]

    @property
    def search(self) -> str:
        return " ".join((self.id, self.prompt, *self.expected)).lower()


def gallery(runs: Sequence[EvalRun], comparison: Comparison) -> list[Card]:
    """One card a common prompt, in the order of the first run."""
    signs = {metric.name: 1 if metric.higher_is_better else -1 for metric in comparison.metrics}
    values = [prompt_values(run.scores, signs) for run in runs]
    failed = {score.prompt_id for run in runs for score in run.scores if score.error is not None}
    asked = {image.prompt_id: image.prompt for image in runs[0].images}
    places = ranks({prompt_id: asked[prompt_id] for prompt_id in comparison.prompts}, values, failed)
    drawn = pairs(runs)

    def one(prompt_id: str) -> Card:
        gain = change(prompt_id, values) if len(runs) == 2 else None
        changes = tuple((name, sign * value) for (name, sign), value in zip(signs.items(), gain or [], strict=False))
        return card(prompt_id, runs, drawn[prompt_id], list(signs), places[prompt_id], changes)

    with ThreadPoolExecutor() as pool:  # Pillow decodes, resizes and encodes outside the interpreter's lock
        count = len(comparison.prompts)
        cards = pool.map(one, comparison.prompts)
        return list(track(cards, "gallery", count, console=Console(stderr=True), disable=count < LONG))


def pairs(runs: Sequence[EvalRun]) -> dict[str, dict[tuple[str, int], tuple[Generation, Score]]]:
    """Prompt id -> (run, seed) -> the image and its score."""
    drawn: dict[str, dict[tuple[str, int], tuple[Generation, Score]]] = {}
    for run in runs:
        scores = {score.id: score for score in run.scores}
        for image in run.images:
            drawn.setdefault(image.prompt_id, {})[run.name, image.seed] = (image, scores[image.id])
    return drawn


def card(
    prompt_id: str,
    runs: Sequence[EvalRun],
    drawn: dict[tuple[str, int], tuple[Generation, Score]],
    metrics: Sequence[str],
    places: dict[str, int],
    changes: tuple[tuple[str, float], ...],
) -> Card:
    seeds = sorted({seed for _, seed in drawn})
    figures = tuple(figure(run, seed, drawn.get((run.name, seed)), metrics) for seed in seeds for run in runs)
    image, score = next(iter(drawn.values()))
    flaws = {
        "error": any(item.error is not None for item in figures),
        "text": any(item.marking is not None and not item.marking.perfect for item in figures),
    }
    return Card(
        id=prompt_id,
        split=score.split,
        prompt=image.prompt,
        expected=score.expected,
        figures=figures,
        places=places,
        flaws=tuple(name for name, present in flaws.items() if present),
        changes=changes,
        references=references(runs, prompt_id),
    )


def references(runs: Sequence[EvalRun], prompt_id: str) -> tuple[tuple[str, Thumbnail], ...]:
    """The images of `references/<prompt id>/` in the first run that has any; UserError for one that is broken."""
    for run in runs:
        folder = run.folder / "references" / prompt_id
        paths = [path for name in REFERENCES if (path := folder / f"{name}.png").is_file()]
        if paths:
            try:
                return tuple((path.stem, thumbnail(path)) for path in paths)
            except OSError as error:
                raise UserError(
                    f"{folder} holds an image that cannot be opened",
                    found=error,
                    fix="run the same glmkit eval command again; it writes them anew",
                ) from error
    return ()


def figure(run: EvalRun, seed: int, drawn: tuple[Generation, Score] | None, metrics: Sequence[str]) -> Figure:
    """Embed the image; whatever failed (drawing, the file, reading) becomes the error of the figure."""
    if drawn is None:
        return Figure(run.name, seed)
    image, score = drawn
    if image.file is None:
        return Figure(run.name, seed, error=image.error or score.error)
    original = run.folder / image.file
    try:
        embedded = thumbnail(original)
    except OSError as error:
        return Figure(run.name, seed, error=score.error or f"{image.file} cannot be opened: {error.strerror or error}")
    if score.error is not None:
        return Figure(run.name, seed, embedded, original, score.error)
    alignment = run.summary.alignment.get("metric")  # a cosine of its own is shown, though not compared
    shown = [*metrics, *([alignment] if alignment and alignment not in metrics else [])]
    values = tuple((metric, score.value(metric)) for metric in shown)
    return Figure(run.name, seed, embedded, original, None, values, mark(score.expected, score.recognized_lines))
