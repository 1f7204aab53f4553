"""The gallery: the shown prompts with the images of all runs, their text compared letter by letter."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from glmkit.errors import UserError
from glmkit.evaluation.stats import image_value, required_counts
from glmkit.records import Generation, Score
from glmkit.reporting.compare import Comparison
from glmkit.reporting.gallery_order import metric_changes, positions, prompt_means
from glmkit.reporting.image_store import ImageStore
from glmkit.reporting.load import EvalRun
from glmkit.reporting.recognized import Box, RecognizedLines, line_boxes, recognized_lines, word_box
from glmkit.reporting.text_diff import ImageTextDiff, MisreadWord, diff_texts
from glmkit.reporting.thumbnails import Thumbnail

MAX_CROPS = 12  # of an image: a poster of gibberish needs no more
MIN_CROP_HEIGHT = 36  # pixels on the screen: smaller crops are enlarged
MIN_PROMPTS_FOR_PROGRESS = 100  # fewer are done before a progress bar could be read
REFERENCES = (
    "condition_image",
    "expected",
)  # what a suite may give with a prompt: an image to edit, and the right answer

ScoredImages = dict[tuple[str, int], tuple[Generation, Score]]  # (run, seed) -> the image and its score


@dataclass(frozen=True)
class ReadBox:
    """Where OCR read a line; `misread`: not every letter of it is as expected."""

    box: Box
    text: str
    misread: bool


@dataclass(frozen=True)
class WordCrop:
    """A misread word beside its pixels; `scale` is how many times larger than they are the page shows them."""

    image: Thumbnail
    scale: float
    word: MisreadWord


@dataclass(frozen=True)
class GalleryImage:
    """One image of one run, or why there is none (`error`), or neither when the run has no such seed.

    `original` is the file that `image` is a copy of, `height` and `width` its pixels; `scores` are (metric, value).
    `rewritten` is the prompt that the model got, where it was rewritten. `boxes` says where OCR read something,
    `misread` shows words that were not read as expected.
    """

    run: str
    seed: int
    image: Thumbnail | None = None
    original: Path | None = None
    error: str | None = None
    scores: tuple[tuple[str, float | None], ...] = ()
    text_diff: ImageTextDiff | None = None
    rewritten: str | None = None
    height: int = 0
    width: int = 0
    boxes: tuple[ReadBox, ...] = ()
    misread: tuple[WordCrop, ...] = ()

    @property
    def n_not_shown(self) -> int:
        """Count the misread words without a crop."""
        return len(self.text_diff.misread) - len(self.misread) if self.text_diff else 0


@dataclass(frozen=True)
class PromptCard:
    """One prompt with its images, seed by seed, run by run. `number` counts the cards from 1.

    `positions` maps an order of the gallery to the position of this card in it. `problems` holds "error" when an image
    failed and "text" when a text was not read as expected. `changes` holds second run minus first run for each metric,
    and is empty for another number of runs. `references` are the images that the suite gives with the prompt, by name.
    """

    number: int
    id: str
    split: str
    prompt: str
    expected: tuple[str, ...]
    images: tuple[GalleryImage, ...]
    positions: dict[str, int]
    problems: tuple[str, ...]
    changes: tuple[tuple[str, float], ...]
    references: tuple[tuple[str, Thumbnail], ...]

    @property
    def search_text(self) -> str:
        """Return what the search field of the page looks in."""
        return " ".join((self.id, self.prompt, *self.expected)).lower()


def gallery(runs: Sequence[EvalRun], comparison: Comparison, store: ImageStore) -> list[PromptCard]:
    """Build one card per shown prompt, in the order of the first run; its images go to `store`."""
    signs = {metric.name: 1 if metric.higher_is_better else -1 for metric in comparison.metrics}
    shown = set(comparison.shown)
    scores = [[score for score in run.scores if score.prompt_id in shown] for run in runs]
    means = [prompt_means(of_run, signs) for of_run in scores]
    failed = {score.prompt_id for of_run in scores for score in of_run if score.error is not None}
    prompts = {image.prompt_id: image.prompt for image in runs[0].images}
    orders = positions({prompt_id: prompts[prompt_id] for prompt_id in comparison.shown}, means, failed)
    images = images_by_prompt(runs, shown)
    recognized = {run.name: recognized_lines(run.folder) for run in runs}

    def card(prompt_id: str) -> PromptCard:
        gains = metric_changes(prompt_id, means) if len(runs) == 2 else None
        changes = tuple((name, sign * gain) for (name, sign), gain in zip(signs.items(), gains or [], strict=False))
        of_prompt = images[prompt_id]
        gallery_images = tuple(
            gallery_image(run, seed, of_prompt.get((run.name, seed)), list(signs), recognized[run.name], store)
            for seed in sorted({seed for _, seed in of_prompt})
            for run in runs
        )
        given = references(runs, prompt_id, store)
        return prompt_card(prompt_id, of_prompt, gallery_images, orders[prompt_id], changes, given)

    with ThreadPoolExecutor() as pool:  # Pillow decodes, resizes and encodes outside the interpreter's lock
        total = len(comparison.shown)
        cards = pool.map(card, comparison.shown)
        quiet = total < MIN_PROMPTS_FOR_PROGRESS
        return list(track(cards, "gallery", total, console=Console(stderr=True), disable=quiet))


def images_by_prompt(runs: Sequence[EvalRun], prompts: Container[str]) -> dict[str, ScoredImages]:
    """Group the images of these prompts, with their scores, by prompt."""
    images: dict[str, ScoredImages] = {}
    for run in runs:
        scores = {score.id: score for score in run.scores}
        for image in (one for one in run.images if one.prompt_id in prompts):
            images.setdefault(image.prompt_id, {})[run.name, image.seed] = (image, scores[image.id])
    return images


def prompt_card(
    prompt_id: str,
    images: ScoredImages,
    gallery_images: tuple[GalleryImage, ...],
    order_positions: dict[str, int],
    changes: tuple[tuple[str, float], ...],
    shown_references: tuple[tuple[str, Thumbnail], ...],
) -> PromptCard:
    """Build the card of one prompt."""
    image, score = next(iter(images.values()))
    problems = {
        "error": any(item.error is not None for item in gallery_images),
        "text": any(item.text_diff is not None and not item.text_diff.perfect for item in gallery_images),
    }
    return PromptCard(
        number=order_positions["suite"] + 1,
        id=prompt_id,
        split=score.split,
        prompt=image.prompt,
        expected=score.expected,
        images=gallery_images,
        positions=order_positions,
        problems=tuple(name for name, present in problems.items() if present),
        changes=changes,
        references=shown_references,
    )


def references(runs: Sequence[EvalRun], prompt_id: str, store: ImageStore) -> tuple[tuple[str, Thumbnail], ...]:
    """Store the images of `references/<prompt id>/` in the first run that has any; UserError for a broken one."""
    for run in runs:
        folder = run.folder / "references" / prompt_id
        paths = [path for name in REFERENCES if (path := folder / f"{name}.png").is_file()]
        if paths:
            try:
                return tuple((path.stem, store.open(path)[1]) for path in paths)
            except UserError as error:
                raise UserError(
                    f"{folder} holds an image that cannot be opened",
                    found=error.what,
                    fix="run the same glmkit eval command again; it writes them anew",
                ) from error
    return ()


def gallery_image(
    run: EvalRun,
    seed: int,
    scored: tuple[Generation, Score] | None,
    metrics: Sequence[str],
    recognized: RecognizedLines,
    store: ImageStore,
) -> GalleryImage:
    """Store one image with its misread words; what failed (generation, the file, OCR) becomes its error."""
    if scored is None:
        return GalleryImage(run.name, seed)
    image, score = scored
    values = {metric: image_value(score, metric) for metric in with_clip_metric(metrics, run.summary.alignment)}
    scores = tuple((name, value) for name, value in values.items() if value is not None or required_counts(name))
    if image.file is None:
        error = image.error or score.error
        return GalleryImage(run.name, seed, error=error, scores=() if error else scores)
    original = run.folder / image.file
    try:
        pixels, shown = store.open(original)
    except UserError as error:
        reason = score.error or error.what
        return GalleryImage(run.name, seed, error=reason)
    found = GalleryImage(run.name, seed, shown, original, score.error, height=pixels.height, width=pixels.width)
    if score.error is not None:
        return found
    text_diff = diff_texts(score.expected, score.recognized_lines) if score.expected else None
    boxes = line_boxes(original, score.recognized_lines, recognized)
    return replace(
        found,
        scores=scores,
        text_diff=text_diff,
        rewritten=image.rewritten,
        boxes=read_boxes(score.recognized_lines, boxes, text_diff),
        misread=word_crops(score.recognized_lines, boxes, text_diff, pixels, store),
    )


def read_boxes(lines: Sequence[str], boxes: Sequence[Box], text_diff: ImageTextDiff | None) -> tuple[ReadBox, ...]:
    """Say which lines hold a misread word."""
    found, start = [], 0
    for text, box in zip(lines, boxes, strict=False):  # without boxes there is nothing to say
        stop = start + len(text)
        misread = any(word.start < stop and word.stop > start for word in (text_diff.misread if text_diff else ()))
        found.append(ReadBox(box, text, misread))
        start = stop + 1
    return tuple(found)


def word_crops(
    lines: Sequence[str],
    boxes: Sequence[Box],
    text_diff: ImageTextDiff | None,
    pixels: Image.Image,
    store: ImageStore,
) -> tuple[WordCrop, ...]:
    """Cut the first `MAX_CROPS` misread words out of an image; none where no boxes are known."""
    if text_diff is None or not boxes:
        return ()
    crops = []
    for word in text_diff.misread[:MAX_CROPS]:
        crop = store.crop(pixels, word_box(lines, boxes, word.start, word.stop))
        if crop is not None:
            crops.append(WordCrop(crop, max(1.0, MIN_CROP_HEIGHT / crop.height), word))
    return tuple(crops)


def with_clip_metric(metrics: Sequence[str], alignment: Mapping[str, str]) -> list[str]:
    """Add the CLIP cosine of a run to the compared metrics: it is shown even where it is not compared."""
    clip_metric = alignment.get("metric")
    return [*metrics, *([clip_metric] if clip_metric and clip_metric not in metrics else [])]
