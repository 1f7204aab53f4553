"""Rounds of images to learn from: which prompts and seeds, what each image is worth, and what a round looks like.

A round is a pure function of the run's seed, its number and the weights. Its images stand in groups, one after the
other, of one prompt each; an image's number in the round is its position. Several processes generate the positions that
they learn, and gather what each image is worth: a group need not be in one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from PIL import Image

from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.records import Request
from glmkit.training.rl import monitors
from glmkit.training.rl.advantages import advantages
from glmkit.training.rl.prompts import PromptDataset
from glmkit.training.rl.rewards import Rewards, RewardSample, RewardScore


@dataclass(frozen=True)
class Candidate:
    """One image of a round: its request, the number of its prompt, and the seed of what its whole group shares.

    The first of a group has that seed itself: it is the very image that `glmkit generate` makes of its request.
    """

    request: Request
    prompt: int
    shared_seed: int


def candidates(
    prompts: PromptDataset, chosen: Sequence[int], group_size: int, seed: int, number: int, **settings: object
) -> list[Candidate]:
    """Return the images of round `number`, a group for each chosen prompt; `settings` are those of their requests."""
    seeds = np.random.SeedSequence([seed, number, 2]).generate_state(len(chosen) * group_size, np.uint64) >> 1
    return [
        Candidate(
            replace(prompts.requests[chosen[position // group_size]], seed=int(own), **settings),  # type: ignore[arg-type]
            chosen[position // group_size],
            int(seeds[position // group_size * group_size]),
        )
        for position, own in enumerate(seeds)
    ]


@dataclass(frozen=True)
class Judged:
    """What the processes tell each other of an image: score, looks, those of its base image, and a small copy of it."""

    score: RewardScore
    looks: Mapping[str, float]
    base_looks: Mapping[str, float]
    thumbnail: np.ndarray


class RewardThread:
    """Scores the images of a round in this process while others are generated.

    `bases` are images by the model without adapters, by shared seed. Leave the block before another round begins.
    """

    def __init__(self, rewards: Rewards, prompts: PromptDataset, bases: Mapping[int, Image.Image]) -> None:
        self._rewards, self._prompts, self._bases = rewards, prompts, bases
        self._thread = ThreadPoolExecutor(1)
        self._begun: list[tuple[Sequence[int], Future[list[Judged]]]] = []

    def begin(self, positions: Sequence[int], candidates: Sequence[Candidate], images: Sequence[Image.Image]) -> None:
        """Have images at these positions of the round scored, behind those that came before."""
        self._begun.append((positions, self._thread.submit(self._score, candidates, images)))

    def judged(self) -> dict[int, Judged]:
        """Wait for all images; returns them by position. Whatever ends the run in a reward is raised here."""
        return {at: one for positions, some in self._begun for at, one in zip(positions, some.result(), strict=True)}

    def _score(self, candidates: Sequence[Candidate], images: Sequence[Image.Image]) -> list[Judged]:
        base_looks = {seed: monitors.looks(self._bases[seed]) for seed in {one.shared_seed for one in candidates}}
        samples = [
            RewardSample(self._prompts.prompts[candidate.prompt], image, self._bases[candidate.shared_seed])
            for candidate, image in zip(candidates, images, strict=True)
        ]
        return [
            Judged(score, monitors.looks(image), base_looks[candidate.shared_seed], monitors.thumbnail(image))
            for score, candidate, image in zip(self._rewards.score(samples), candidates, images, strict=True)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Outcome:
    """What a round is worth: the advantage of every position, 0 where it has none, and numbers to show."""

    advantages: np.ndarray
    metrics: dict[str, float]


def outcome(rewards: Rewards, judged: Sequence[Judged], size: int) -> Outcome:
    """Compare the images of a round within their groups of `size`. UserError when none could be rewarded."""
    scores = [one.score for one in judged]
    groups = [position // size for position in range(len(judged))]
    found = advantages(scores, groups, rewards.weights, rewards.min_stds)
    known = np.nan_to_num(found).reshape(-1, size)
    thumbnails = [one.thumbnail for one in judged]
    return Outcome(
        known.ravel(),
        {
            **means(scores, rewards.weights),
            "constant_groups": float((known == 0).all(axis=1).mean()),
            "failed": float(np.mean([score.error is not None for score in scores])),
            "empty": float(np.mean([score.is_empty for score in scores])),
            **monitors.against_base([one.looks for one in judged], [one.base_looks for one in judged]),
            **monitors.alike([thumbnails[start : start + size] for start in range(0, len(thumbnails), size)]),
            **monitors.means([score.read for score in scores]),
        },
    )


def means(scores: Sequence[RewardScore], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the mean reward, and that of each of its parts as `reward/NAME`. UserError when every image failed."""
    good = [score for score in scores if score.error is None]
    if not good:
        raise UserError("none of the images could be rewarded", found=scores[0].error, fix="glmkit reward shows why")
    totals = [score.total(weights) or 0.0 for score in good]
    parts = {name: [score.parts[name] for score in good if name in score.parts] for name in weights}
    each = {f"reward/{name}": float(np.mean(values)) for name, values in parts.items() if values}
    return {"reward": float(np.mean(totals)), **each}


def gather(group: ProcessGroup, own: Mapping[int, Judged]) -> list[Judged]:
    """Return what every process found, by position; each position is of one process."""
    merged = {position: one for part in group.gather_objects(dict(own)) for position, one in part.items()}
    return [merged[position] for position in sorted(merged)]
