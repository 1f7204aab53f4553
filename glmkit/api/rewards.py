"""What rewards think of images: before anyone trains on them, and to choose pairs of images by them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Literal

from glmkit.config import RewardSettings
from glmkit.errors import UserError, one_line
from glmkit.files import read_regular
from glmkit.hashing import json_sha256
from glmkit.records import Prompt, Record

if TYPE_CHECKING:
    from glmkit.inputs.prompts import FilePrompt
    from glmkit.training.rl.rewards import Rewards, RewardScore

DEFAULT_WEIGHTS: Mapping[str, float] = {"text": 1.0}
IMAGES_AT_ONCE = 64
EQUAL = 1e-6  # rewards that differ by less are the same


@dataclass(frozen=True)
class RewardedImage(Record):
    """Say what the rewards give an image. `total` is their weighted sum, `advantage` what training makes of it.

    The advantage compares with the other images of the prompt; None of a single one. An image with an `error` has
    neither, nor has one of whose prompt no reward says anything. `is_empty`: there is next to nothing in it, and no
    reward is above 0.
    """

    prompt_id: str
    prompt: str
    texts: tuple[str, ...]
    seed: int
    file: str
    rewards: Mapping[str, float]
    total: float | None
    advantage: float | None
    is_empty: bool = False
    error: str | None = None
    condition_images: tuple[str, ...] = ()


@dataclass(frozen=True)
class RewardSpread(Record):
    """Say how a reward varies: mean over images, mean standard deviation within prompts of several images.

    `constant` is the share of these prompts whose images all have the same reward: there is nothing to learn from them.
    """

    mean: float
    within: float | None
    constant: float | None


@dataclass(frozen=True)
class RewardReport:
    """Hold the images in the order of prompts and seeds, and the spread of each reward and of "total".

    `missing` are the ids of prompts without an image, `unmatched` says which images belong to no prompt.
    """

    images: tuple[RewardedImage, ...]
    spreads: Mapping[str, RewardSpread]
    missing: tuple[str, ...] = ()
    unmatched: str = ""


def reward_images(
    images: str | Path,
    prompts: str | Path,
    rewards: Mapping[str, float] = DEFAULT_WEIGHTS,
    *,
    base: str | Path | None = None,
    texts_from: Literal["quotes"] | None = None,
    ocr: str = "paddleocr",
    device: str = "auto",
) -> RewardReport:
    """Score images, named `<prompt id>_<seed>.png`, by weighted rewards; `prompts` is a file of `glmkit generate`.

    Texts of a prompt are its `texts` or, with `texts_from="quotes"`, those in its quotes. `base` is a folder of images
    that the model makes without what is trained, by the same names; one without its seed is compared with the first of
    its prompt. UserError for whatever is misspelt or missing, and for the reward "text" where no prompt names texts; an
    image that cannot be scored, or whose prompt cannot be used, has its error.
    """
    from glmkit.evaluation.suites.shared.layouts import file_of
    from glmkit.evaluation.suites.shared.own_prompts import OwnPrompts
    from glmkit.inputs.prompts import read_prompts
    from glmkit.models.devices import pick_device
    from glmkit.training.rl.advantages import advantages
    from glmkit.training.rl.rewards import Rewards

    suite = OwnPrompts(from_quotes=texts_from is not None)
    read = [_prompt(one, from_quotes=suite.from_quotes) for one in read_prompts(Path(prompts))]
    if "text" in rewards:
        _check_texts(Path(prompts), read, from_quotes=suite.from_quotes)
    known = {prompt.id: prompt for prompt in read}
    files = suite.find(Path(images), read)
    bases = {} if base is None else suite.find(Path(base), read)
    first_bases = {name: file_of(bases[name, seed]) for name, seed in sorted(bases, reverse=True)}
    found = [(known[name], seed, file_of(files[name, seed])) for name, seed in _in_order(files, known)]
    compared = [
        file_of(bases[key]) if (key := (prompt.id, seed)) in bases else first_bases.get(prompt.id)
        for prompt, seed, _ in found
    ]
    with Rewards(RewardSettings(weights=dict(rewards), ocr=ocr), str(pick_device(device))) as scorer:
        if scorer.needs_base and base is None:
            raise UserError("some of these rewards compare with images of the base model", fix="--base DIR")
        scores = _score_all(
            scorer, [(prompt, file, base) for (prompt, _, file), base in zip(found, compared, strict=True)]
        )
        gains = advantages(scores, [prompt.id for prompt, _, _ in found], scorer.weights, scorer.min_stds).tolist()
    rewarded = [
        _rewarded(prompt, seed, file, score, rewards, gain)
        for (prompt, seed, file), score, gain in zip(found, scores, gains, strict=True)
    ]
    missing = known.keys() - {image.prompt_id for image in rewarded}
    unmatched = suite.unmatched(Path(images), files, read, read)
    without = tuple(name for name in known if name in missing)
    return RewardReport(tuple(rewarded), _spreads(rewarded, rewards), without, unmatched)


def _prompt(prompt: FilePrompt, *, from_quotes: bool) -> Prompt:
    """Make a prompt of a file's, with its error where it cannot be used."""
    from glmkit.evaluation.suites.shared.own_prompts import as_prompt

    try:
        return as_prompt(prompt, from_quotes=from_quotes)
    except UserError as error:
        return Prompt(prompt.id, prompt.prompt, error=one_line(error))


def _check_texts(file: Path, prompts: Sequence[Prompt], *, from_quotes: bool) -> None:
    """Raise UserError when none of the prompts that can be used has texts."""
    usable = [prompt for prompt in prompts if prompt.error is None]
    if usable and not any(prompt.texts for prompt in usable):
        fix = '"texts": ["OPEN"], what its image must show; or ' + (
            "--reward without text" if from_quotes else "--texts-from quotes"
        )
        raise UserError(f"no prompt in {file} has expected texts", found=usable[0].prompt, fix=fix)


def _rewarded(
    prompt: Prompt, seed: int, file: Path, score: RewardScore, weights: Mapping[str, float], advantage: float
) -> RewardedImage:
    """Make the record of an image; an advantage of NaN is none."""
    return RewardedImage(
        prompt_id=prompt.id,
        prompt=prompt.prompt,
        texts=prompt.texts,
        seed=seed,
        file=str(file),
        rewards=score.parts,
        total=score.total(weights) if score.parts else None,
        advantage=advantage if score.parts and not math.isnan(advantage) else None,
        is_empty=score.is_empty,
        error=score.error,
        condition_images=prompt.condition_images,
    )


def _in_order(files: Iterable[tuple[str, int]], prompts: Iterable[str]) -> list[tuple[str, int]]:
    """Sort prompt ids and seeds as the prompts are."""
    number = {name: index for index, name in enumerate(prompts)}
    return sorted(files, key=lambda key: (number[key[0]], key[1]))


def _score_all(scorer: Rewards, images: Sequence[tuple[Prompt, Path, Path | None]]) -> list[RewardScore]:
    """Score image files, each with the file of its base image, in their order.

    No content is scored twice, in this run or in one that was stopped: scores stay in the user's cache, but for errors.
    """
    from glmkit.evaluation.result_store import Key, ResultStore
    from glmkit.progress import progress_bars
    from glmkit.training.rl.rewards import RewardScore

    store = ResultStore(None, "rewards", scorer.identity, "prompt", "score", RewardScore.to_dict, RewardScore.from_dict)
    keys: list[Key] = [_key(*image) for image in images]
    scores: dict[Key, RewardScore] = {**store.find(keys)}
    missing = [*{key: image for key, image in zip(keys, images, strict=True) if key not in scores}.items()]
    with progress_bars() as bars:
        task = bars.add_task("rewarding", total=len(missing))
        for start in range(0, len(missing), IMAGES_AT_ONCE):
            chunk = missing[start : start + IMAGES_AT_ONCE]
            for (key, _), score in zip(chunk, _score(scorer, [image for _, image in chunk]), strict=True):
                scores[key] = score
                if score.error is None:
                    store.add(key, score)
            bars.update(task, completed=start + len(chunk))
    return [scores[key] for key in keys]


def _key(prompt: Prompt, image: Path, base: Path | None) -> tuple[str, str]:
    """Name an image by its content, and what else decides its rewards: prompt, base image, and what it edits."""
    others = [None if path is None else _content(path) for path in (base, *map(Path, prompt.condition_images))]
    return _content(image), json_sha256({**prompt.to_dict(), "condition_images": others})[:16]


def _content(path: Path) -> str:
    """Hash an image; one that cannot be read is called by its path, and gets an error when it is scored."""
    from glmkit.inputs.images import MAX_BYTES

    try:
        return hashlib.sha256(read_regular(path, str(path), MAX_BYTES)).hexdigest()
    except UserError:
        return str(path)


def _score(scorer: Rewards, images: Sequence[tuple[Prompt, Path, Path | None]]) -> list[RewardScore]:
    """Score image files, each with the file of its base image; one that cannot be read has its error."""
    from glmkit.inputs.images import read_image
    from glmkit.training.rl.rewards import RewardSample, RewardScore

    scores: list[RewardScore | None] = []
    samples = []
    for prompt, *files in images:
        if prompt.error is not None:
            scores.append(RewardScore(error=f"prompt: {prompt.error}"))
            continue
        try:
            edited = Path(prompt.condition_images[0]) if prompt.condition_images else None
            image, base, condition = (None if file is None else read_image(file) for file in (*files, edited))
        except UserError as error:
            scores.append(RewardScore(error=one_line(error)))
            continue
        assert image is not None
        scores.append(None)
        samples.append(RewardSample(prompt, image, base, condition=condition))
    scored = iter(scorer.score(samples))
    return [next(scored) if score is None else score for score in scores]


def _spreads(images: Sequence[RewardedImage], weights: Mapping[str, float]) -> dict[str, RewardSpread]:
    """Measure how every reward varies, and their sum."""
    scored = [image for image in images if image.error is None]
    spreads = {}
    for name in [*weights, "total"]:
        by_prompt: dict[str, list[float]] = {}
        for image in scored:
            value = image.total if name == "total" else image.rewards.get(name)
            if value is not None:
                by_prompt.setdefault(image.prompt_id, []).append(value)
        if by_prompt:
            groups = [values for values in by_prompt.values() if len(values) > 1]
            spreads[name] = RewardSpread(
                mean(value for values in by_prompt.values() for value in values),
                mean(map(stdev, groups)) if groups else None,
                mean(max(values) - min(values) < EQUAL for values in groups) if groups else None,
            )
    return spreads
