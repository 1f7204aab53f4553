"""A page for blind votes: two images of one prompt side by side, in an order that says nothing of the runs.

The page holds the key that says which image is whose, encoded so that voters do not read it by accident; it goes into
the votes that they export, so that these are enough for `glmkit votes`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, zip_longest
from pathlib import Path
from typing import Annotated, Any, TypedDict

from markupsafe import Markup

from glmkit import __version__
from glmkit.errors import UserError
from glmkit.evaluation.stats import image_value
from glmkit.files import atomic_path
from glmkit.hashing import file_sha256, json_sha256
from glmkit.inputs.images import MAX_BYTES
from glmkit.records import Generation, MetricDefinition, Score
from glmkit.reporting.build import GENERATOR, check_page
from glmkit.reporting.compare import comparable_metrics
from glmkit.reporting.load import EvalRun, load_runs
from glmkit.reporting.templates import FOLDER, template_environment
from glmkit.reporting.thumbnails import Thumbnail, reencoded
from glmkit.text import parse_json

PAIRS = 100  # of a page, as many as a person votes on in half an hour
SIDE = 1024  # pixels of the longer side: letters must be read


class Side(TypedDict):
    """One image of a pair: whose it is, its file's `content_id`, and its value of each metric, None without one."""

    run: str
    image: str
    values: Mapping[str, float | None]


class Pair(TypedDict):
    """Two images of one prompt and seed, as they stand on the page."""

    prompt_id: str
    seed: int
    left: Side
    right: Side


class Key(TypedDict):
    """Say whose images are whose. `pairs` are by their id on the page, metrics by name."""

    suite: str
    runs: list[str]
    metrics: Mapping[str, Annotated[Mapping[str, str], MetricDefinition]]
    pairs: Mapping[str, Pair]


@dataclass(frozen=True)
class ImageOfRun:
    """One image of a run, with its score."""

    run: EvalRun
    image: Generation
    score: Score

    @property
    def path(self) -> Path:
        """Say where the image is."""
        return self.run.folder / str(self.image.file)


@dataclass(frozen=True)
class ShownPair:
    """The left and the right image of a pair, and what the page shows of them."""

    images: tuple[ImageOfRun, ImageOfRun]
    shown: tuple[Thumbnail, Thumbnail]

    def swapped(self) -> ShownPair:
        """Return the pair with its sides exchanged."""
        (left, right), (left_shown, right_shown) = self.images, self.shown
        return ShownPair((right, left), (right_shown, left_shown))


def write_blind(
    folders: Sequence[Path], out: Path, names: Sequence[str] = (), seed: int = 0, pairs: int | None = None
) -> tuple[Path, tuple[Path, ...]]:
    """Write a page for votes on `pairs` (by default 100) pairs of images, on all of them where there are fewer.

    `seed` decides which pairs, their order and their sides. One file, which loads nothing. Returns it, and the images
    that cannot be read, whose pairs are left out. UserError for fewer than two runs, or runs without a prompt of which
    two have an image.
    """
    (out,) = check_page(out)
    pairs = PAIRS if pairs is None else pairs
    if pairs < 1:
        raise UserError("a page needs at least one pair", found=pairs, fix="--pairs 100")
    runs = load_runs(folders, names)
    if len(runs) < 2:
        raise UserError("votes compare runs", found=f"{len(runs)} run", fix="--blind RUN RUN")
    unreadable: list[Path] = []
    chosen = choose_pairs(runs, random.Random(seed), pairs, unreadable)
    key = make_key(runs, [pair.images for pair in chosen])
    script = (FOLDER / "blind.js").read_text(encoding="utf-8")
    html = (
        template_environment()
        .get_template("blind.html")
        .render(
            generator=Markup(GENERATOR),
            suite=key["suite"],
            key=encode(key),
            page=json_sha256([key, seed])[:16],
            pairs=[
                {
                    "id": pair_id,
                    "prompt": pair.images[0].image.prompt,
                    "expected": pair.images[0].score.expected,
                    "images": pair.shown,
                }
                for pair_id, pair in zip(key["pairs"], chosen, strict=True)
            ],
            version=__version__,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )
    )
    with atomic_path(out) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    return out, tuple(unreadable)


def choose_pairs(
    runs: Sequence[EvalRun], generator: random.Random, amount: int, unreadable: list[Path]
) -> list[ShownPair]:
    """Choose images of the same prompt and seed by two runs, as many of every two runs as can be, in a random order.

    Images that cannot be read are added to `unreadable`, and are in no pair.
    """
    images = [
        {
            (image.prompt_id, image.seed): ImageOfRun(run, image, score)
            for image, score in _scored(run)
            if image.file is not None
        }
        for run in runs
    ]
    by_runs = []
    for a, b in combinations(range(len(runs)), 2):
        common = [(images[a][key], images[b][key]) for key in images[a] if key in images[b]]
        generator.shuffle(common)
        by_runs.append(common)
    turns = [pair for turn in zip_longest(*by_runs) for pair in turn if pair is not None]
    chosen = list(islice(_readable(turns, unreadable), amount))
    if not chosen:
        raise UserError(
            "no prompt has an image in two of the runs",
            found=f"{unreadable[0]}, which cannot be read" if unreadable else None,
            fix="evaluate them with the same prompts and seeds",
        )
    generator.shuffle(chosen)
    return [pair if generator.random() < 0.5 else pair.swapped() for pair in chosen]


def _readable(pairs: Iterable[tuple[ImageOfRun, ImageOfRun]], unreadable: list[Path]) -> Iterator[ShownPair]:
    """Yield the pairs whose images can both be read."""
    for pair in pairs:
        shown = []
        for side in pair:
            try:
                shown.append(reencoded(side.path, SIDE))
            except UserError:
                if side.path not in unreadable:
                    unreadable.append(side.path)
        if len(shown) == len(pair):
            yield ShownPair(pair, (shown[0], shown[1]))


def content_id(image: Path) -> str:
    """Return what names the content of an image file in a key: 16 hexadecimal digits."""
    return file_sha256(image, MAX_BYTES)[:16]


def _scored(run: EvalRun) -> Iterator[tuple[Generation, Score]]:
    scores = {score.id: score for score in run.scores}
    return ((image, scores[image.id]) for image in run.images)


def make_key(runs: Sequence[EvalRun], pairs: Sequence[tuple[ImageOfRun, ImageOfRun]]) -> Key:
    """Say which run each image of the pairs is of, and how the metrics score it."""
    metrics = comparable_metrics(runs)

    def side(one: ImageOfRun) -> Side:
        scored = one.score.error is None
        values = {name: image_value(one.score, name) if scored else None for name in metrics}
        return {"run": one.run.name, "image": content_id(one.path), "values": values}

    return {
        "suite": runs[0].summary.suite,
        "runs": [run.name for run in runs],
        "metrics": {name: dict(runs[0].summary.metrics[name]) for name in metrics},
        "pairs": {
            f"pair-{number}": {
                "prompt_id": left.image.prompt_id,
                "seed": left.image.seed,
                "left": side(left),
                "right": side(right),
            }
            for number, (left, right) in enumerate(pairs, start=1)
        },
    }


def encode(key: Key) -> str:
    """Return a key as text that says nothing to a reader."""
    return base64.b64encode(json.dumps(key, ensure_ascii=False).encode("utf-8", "surrogatepass")).decode("ascii")


def decode(text: str, name: str) -> Any:
    """Return what `encode` was given; UserError for any other text, which `name` names."""
    try:
        content = base64.b64decode(text, validate=True).decode("utf-8", "surrogatepass")
    except ValueError as error:
        raise UserError(f"{name} is broken", found=str(error)[:100], fix="export the votes again") from error
    return parse_json(content, name)
