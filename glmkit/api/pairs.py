"""Preference pairs: a better and a rejected image of one prompt, by rewards or by votes, as a data set for `dpo`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.errors import UserError
from glmkit.files import atomic_folder, write_jsonl

if TYPE_CHECKING:
    from glmkit.api.rewards import RewardedImage, RewardReport
    from glmkit.records import Generation
    from glmkit.reporting.load import EvalRun

KINDS = ("chosen", "rejected")
METADATA = "metadata.jsonl"
DIGITS = 6  # of a reward in it


@dataclass(frozen=True)
class ImagePair:
    """A better and a worse image file of one prompt, whose images shall show `texts`.

    `condition_images` are the files that an instruction edits. `about` is what else is known: values of JSON.
    """

    prompt: str
    texts: tuple[str, ...]
    chosen: Path
    rejected: Path
    condition_images: tuple[Path, ...]
    about: dict[str, Any]


def pairs_by_rewards(report: RewardReport, margin: float) -> list[ImagePair]:
    """Pair the best image of each prompt with its worst, where their totals differ by more than `margin`.

    Images with an error are in no pair, and empty ones are never the better image. UserError for a margin below 0.
    """
    check_margin(margin)
    by_prompt: dict[str, list[RewardedImage]] = {}
    for image in report.images:
        if image.total is not None:
            by_prompt.setdefault(image.prompt_id, []).append(image)
    pairs = []
    for images in by_prompt.values():
        # Of equal ones the first seed is the better and the last the worse.
        ordered = sorted(images, key=lambda image: (-_total(image), image.seed))
        best, worst = ordered[0], ordered[-1]
        if _total(best) - _total(worst) > margin and not best.is_empty:
            about = {"chosen_reward": round(_total(best), DIGITS), "rejected_reward": round(_total(worst), DIGITS)}
            edited = tuple(map(Path, best.condition_images))
            pairs.append(ImagePair(best.prompt, best.texts, Path(best.file), Path(worst.file), edited, about))
    return pairs


def check_margin(margin: float) -> None:
    """Raise UserError for a margin below 0, or without an end."""
    if not 0 <= margin < math.inf:
        raise UserError("a margin is at least 0", found=margin, fix="--margin 0.1")


def _total(image: RewardedImage) -> float:
    assert image.total is not None
    return image.total


def pairs_by_votes(votes: Sequence[Path], runs: Sequence[Path], names: Sequence[str] = ()) -> list[ImagePair]:
    """Pair the images that the exported `votes` compare, found in their run folders; ties are in no pair.

    Several votes on one pair count together. `names` are those that the page calls the runs, where they were given.
    UserError for a run of the votes that is not among `runs`, and for an image that is not in its run, or is not the
    one that people saw.
    """
    from glmkit.reporting.load import load_runs
    from glmkit.reporting.votes import read_votes

    every, _ = read_votes(votes)
    loaded = {run.name: run for run in load_runs(runs, names)}
    expected = {name: {score.id: score.expected for score in run.scores} for name, run in loaded.items()}
    cast: dict[tuple[str, int, str, str], list[int]] = {}
    seen: dict[tuple[str, int, str], str] = {}
    for vote in every:
        left, right = vote.pair["left"]["run"], vote.pair["right"]["run"]
        if unknown := {left, right} - loaded.keys():
            found = f"{', '.join(sorted(unknown))}; --runs has {', '.join(loaded)}"
            raise UserError(
                "the votes are on runs that are not there", found=found, fix="--runs, --name as the page has them"
            )
        for side in (vote.pair["left"], vote.pair["right"]):
            shown = vote.pair["prompt_id"], vote.pair["seed"], side["run"]
            if seen.setdefault(shown, side["image"]) != side["image"]:
                found = f"{side['run']}: prompt {shown[0]}, seed {shown[1]}"
                raise UserError(
                    "the votes are on pages with other images of one name",
                    found=found,
                    fix="the votes of each page alone",
                )
        first, second = sorted((left, right))
        sign = vote.sign if first == left else -vote.sign
        cast.setdefault((vote.pair["prompt_id"], vote.pair["seed"], first, second), []).append(sign)
    pairs = []
    for (prompt_id, seed, first, second), signs in cast.items():
        if total := sum(signs):
            better, worse = (first, second) if total > 0 else (second, first)
            if seen[prompt_id, seed, better] == seen[prompt_id, seed, worse]:
                continue  # the same image twice teaches nothing, whatever was voted
            image, chosen = _image_of(loaded[better], prompt_id, seed, seen[prompt_id, seed, better])
            _, rejected = _image_of(loaded[worse], prompt_id, seed, seen[prompt_id, seed, worse])
            ahead = 1 if total > 0 else -1
            about = {"votes_for": signs.count(ahead), "votes_against": signs.count(-ahead)}
            edited = tuple(sorted((loaded[better].folder / "references" / prompt_id).glob("condition_image*.png")))
            pairs.append(ImagePair(image.prompt, expected[better][image.id], chosen, rejected, edited, about))
    return pairs


def _image_of(run: EvalRun, prompt_id: str, seed: int, seen: str) -> tuple[Generation, Path]:
    """Return the record of an image, and its file.

    UserError when the run has none, or when its content is not what people saw.
    """
    from glmkit.reporting.blind import content_id

    for image in run.images:
        if (image.prompt_id, image.seed) == (prompt_id, seed) and image.file is not None:
            path = run.folder / image.file
            if content_id(path) != seen:
                raise UserError(
                    f"{path} is not the image that the votes are on",
                    fix="the run folder that the page was made of, as it was then",
                )
            return image, path
    found = f"prompt {prompt_id}, seed {seed}"
    raise UserError(
        f"{run.folder} lacks an image that the votes compare", found=found, fix="the run that the page shows"
    )


def write_pairs(pairs: Sequence[ImagePair], out: Path) -> None:
    """Write a new folder of pairs: chosen/, rejected/ and metadata.jsonl, as `datasets` and a recipe read them.

    UserError for no pairs, and where there is something already.
    """
    if not pairs:
        raise UserError(
            "there are no pairs to write", fix="more images of each prompt, a smaller --margin, or votes for one side"
        )
    with atomic_folder(out) as unfinished:
        records = []
        for number, pair in enumerate(pairs):
            record: dict[str, Any] = {"prompt": pair.prompt}
            if pair.texts:
                record["texts"] = list(pair.texts)
            for kind, source in zip(KINDS, (pair.chosen, pair.rejected), strict=True):
                record[f"{kind}_file_name"] = _copy(source, unfinished, f"{kind}/{number:05}")
            if pair.condition_images:
                names = (f"condition/{number:05}_{index}" for index in range(len(pair.condition_images)))
                record["condition_image"] = [
                    _copy(source, unfinished, name) for source, name in zip(pair.condition_images, names, strict=True)
                ]
            records.append(record | pair.about)
        write_jsonl(unfinished / METADATA, records)


def _copy(source: Path, folder: Path, name: str) -> str:
    """Copy a file into the folder under a name, which gets the file's ending; returns the name."""
    name += source.suffix.lower()
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(source, folder / name)
    return name
