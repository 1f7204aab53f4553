"""The sample images of a model card: copied beside it, before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from glmkit.config import Recipe
from glmkit.files import atomic_path
from glmkit.inputs.images import read_image
from glmkit.reporting.load import EvalRun
from glmkit.reporting.training import sample_grids

FOLDER = "samples"  # beside the card
MAX_SAMPLES = 8  # as many as a reader looks at
MAX_SIDE = 512  # pixels: a card is read, its images are not measured


@dataclass(frozen=True)
class CardSample:
    """Hold a prompt and the paths of its images, relative to the card: `condition_image` of an edit, `before`, `after`.

    All samples of a card have the same images.
    """

    prompt: str
    images: Mapping[str, str]


def copy_samples(
    run: Path, recipe: Recipe, evaluation: tuple[EvalRun, EvalRun] | None, folder: Path
) -> list[CardSample]:
    """Copy samples of the run into `folder`/samples, small; without any, images of its evaluation."""
    samples = []
    pairs = _of_training(run, recipe) if recipe.samples.prompts else _of_evaluation(*evaluation) if evaluation else ()
    for number, (prompt, images) in enumerate(pairs):
        if number == MAX_SAMPLES:
            break
        paths = {}
        for name, image in images.items():
            paths[name] = f"{FOLDER}/{number}_{name}.png"
            image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
            with atomic_path(folder / paths[name]) as temporary:
                image.save(temporary, optimize=True)
        samples.append(CardSample(prompt, paths))
    return samples


def _of_training(run: Path, recipe: Recipe) -> Iterator[tuple[str, dict[str, Image.Image]]]:
    """Take the first grid of the first stage and the last grid of the last one apart."""
    stages = list(recipe.stages)
    first, last = sample_grids(run, stages[0])[0][1], sample_grids(run, stages[-1])[-1][1]
    before, after = read_image(first), read_image(last)
    width = before.width // len(recipe.samples.prompts)
    for number, prompt in enumerate(recipe.samples.prompts):
        box = (number * width, 0, (number + 1) * width, before.height)
        yield prompt, {"before": before.crop(box), "after": after.crop(box)}


def _of_evaluation(before: EvalRun, after: EvalRun) -> Iterator[tuple[str, dict[str, Image.Image]]]:
    """Pair the images of both evaluations, with the image that an edit began with."""
    files_before = {image.id: image.file for image in before.images}
    for image in after.images:
        first = files_before.get(image.id)
        if first is None or image.file is None:
            continue
        paths = {
            "condition_image": after.folder / "references" / image.prompt_id / "condition_image.png",
            "before": before.folder / first,
            "after": after.folder / image.file,
        }
        yield image.prompt, {name: read_image(path) for name, path in paths.items() if path.exists()}
