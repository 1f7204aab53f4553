"""What both halves have in common where they learn from rewards: rounds of images, their worth, limits, validation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from glmkit.config import BlockStage
from glmkit.config.rl import Rl
from glmkit.generation.requests import batch_settings
from glmkit.models.devices import autocast, dtype_for
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request
from glmkit.training import lora
from glmkit.training.context import StageContext
from glmkit.training.data import Batches, buckets
from glmkit.training.objectives import Divisible
from glmkit.training.objectives.regularization import without_adapters
from glmkit.training.rl import monitors, rounds
from glmkit.training.rl.prompts import PromptDataset
from glmkit.training.rl.rewards import Rewards, RewardSample
from glmkit.training.rl.rounds import Candidate

VALIDATION_PROMPTS = 64

Learnt = TypeVar("Learnt")
Settings = TypeVar("Settings", bound=Rl)
Tell = Callable[[str], None]


class RewardObjective(Divisible, Generic[Learnt, Settings]):
    """Learns from images that the model has just generated, by how much better each is than others of its prompt.

    `Learnt` is what a half of the model learns of an image: its tokens, or its latents.
    """

    def __init__(
        self,
        hybrid: HybridModel,
        datasets: tuple[PromptDataset, PromptDataset],
        stage: BlockStage,
        rl: Settings,
        context: StageContext,
    ) -> None:
        self.hybrid, self.stage, self.rl, self.context, self.device = hybrid, stage, rl, context, hybrid.device
        self.prompts, self.validation = datasets
        self.trained: Any = getattr(hybrid, context.name)
        self.batches = Batches(buckets(self.prompts), stage.examples_per_step, context.seed)
        self.rewards = Rewards(rl.rewards, str(hybrid.device), monitored=True)
        self.first: dict[str, float] = {}  # numbers of the first round
        self.learnt: dict[int, Learnt] = {}  # what this process learns of this round, by position
        self.advantages = torch.zeros(0)
        self.is_first_update = True
        self.metrics: dict[str, Tensor] = {}

    @abstractmethod
    def generate(self, candidates: Sequence[Candidate]) -> list[tuple[Image.Image, Learnt]]:
        """Generate images that may share a batch by the model as it is, as `glmkit generate` does."""

    def begin_round(self, number: int) -> None:
        """Do what comes before the images of a round; by default nothing."""
        del number

    def request_settings(self) -> dict[str, Any]:
        """Return what the requests of a round have in place of the model's defaults."""
        settings = {"steps": self.rl.denoising_steps, "guidance": self.rl.guidance}
        return {name: value for name, value in settings.items() if value is not None}

    def before_step(self, step: int, positions: Sequence[int], tell: Tell = lambda _: None) -> None:
        """Generate and reward the images of a round, `positions` of it in this process, if a round begins here."""
        self.is_first_update = step % self.rl.updates == 0
        if not self.is_first_update:
            return
        # 1. Generate one image of each prompt by the model without adapters, and the images of this process.
        number = step // self.rl.updates
        self.begin_round(number)
        chosen, size = self.batches[number], self.rl.group_size
        settings = self.request_settings()
        every = rounds.candidates(self.prompts, chosen, size, self.context.seed, number, **settings)
        own = [every[position] for position in positions]
        firsts = [every[group * size] for group in sorted({position // size for position in positions})]
        with self._eval_mode():
            with without_adapters(self.trained):
                bases = self._generate_all(firsts, tell)
            base_images = {first.shared_seed: image for first, (image, _) in zip(firsts, bases, strict=True)}

            # 2. Reward them while others are generated, in groups that may be spread over processes.
            with rounds.RewardThread(self.rewards, self.prompts, base_images) as thread:

                def reward(indices: Sequence[int], images: Sequence[Image.Image]) -> None:
                    thread.begin([positions[index] for index in indices], [own[index] for index in indices], images)

                with self.generating():
                    found = self._generate_all(own, tell, reward)
                tell(f"{len(own)} images are rewarded")
                judged = thread.judged()
        gathered = rounds.gather(self.context.group, judged)
        outcome = rounds.outcome(self.rewards, gathered, size)

        # 3. Keep what is learnt of them.
        self.learnt = {position: learnt for position, (_, learnt) in zip(positions, found, strict=True)}
        self.advantages = torch.from_numpy(outcome.advantages).float()
        self.metrics = {name: torch.tensor(value) for name, value in outcome.metrics.items()}

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Have the weights that generate in place; by default those that learn."""
        yield

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in the types in which the model learns, while the block runs."""
        in_bfloat16 = dtype_for(self.device) == torch.bfloat16
        with lora.autocast_decides(self.trained, in_bfloat16), autocast(self.device):
            yield

    @contextmanager
    def _eval_mode(self) -> Iterator[None]:
        was_training = self.trained.training
        self.trained.eval()
        try:
            yield
        finally:
            self.trained.train(was_training)

    def _generate_all(
        self,
        candidates: Sequence[Candidate],
        tell: Tell,
        made: Callable[[Sequence[int], Sequence[Image.Image]], None] | None = None,
    ) -> list[tuple[Image.Image, Learnt]]:
        """Generate images in batches of requests that may share one; returns them in their order.

        `made` is called with the images of each batch, and with the numbers of their candidates.
        """
        members: dict[tuple[object, ...], list[int]] = {}
        for index, candidate in enumerate(candidates):
            members.setdefault(batch_settings(candidate.request), []).append(index)
        found: dict[int, tuple[Image.Image, Learnt]] = {}
        for indices in members.values():
            for start in range(0, len(indices), self.rl.generate_at_once):
                tell(f"{len(found)} of {len(candidates)} images generated")
                batch = indices[start : start + self.rl.generate_at_once]
                generated = self.generate([candidates[index] for index in batch])
                found.update(zip(batch, generated, strict=True))
                if made is not None:
                    made(batch, [image for image, _ in generated])
        return [found[index] for index in range(len(candidates))]

    def advantages_of(self, positions: Sequence[int]) -> Tensor:
        """Return the advantages of some images of the round, on the device."""
        return self.advantages[list(positions)].to(self.device)

    def validation_losses(self) -> dict[str, float]:
        """Return the mean reward of images of validation prompts by the model's defaults; `loss` is its negative.

        The seeds are those of the prompts, so that two steps differ in the weights alone. Processes share the images.
        """
        group = self.context.group
        count = min(VALIDATION_PROMPTS, len(self.validation.requests))
        own = [
            Candidate(self.validation.requests[index], index, self.validation.requests[index].seed)
            for index in range(group.rank, count, group.world_size)
        ]
        with self._eval_mode():
            images = [image for image, _ in self._generate_all(own, lambda _: None)]
            bases: Sequence[Image.Image | None] = [None] * len(own)
            if self.rewards.needs_base:
                with without_adapters(self.trained):
                    bases = [image for image, _ in self._generate_all(own, lambda _: None)]
        samples = [
            RewardSample(self.validation.prompts[one.prompt], image, base)
            for one, image, base in zip(own, images, bases, strict=True)
        ]
        scores = self.rewards.score(samples)
        every = [score for of_rank in group.gather_objects(scores) for score in of_rank]
        means = rounds.means(every, self.rewards.weights)
        return {"loss": -means["reward"], **means}

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """UserError when the numbers of one step say that the reward is gamed."""
        for name in (*monitors.AGAINST_FIRST, *monitors.GROWTH):
            if name in metrics:
                self.first.setdefault(name, metrics[name])
        monitors.check(self.context.name, step, metrics, self.first, self.rl.limits)

    def state(self) -> dict[str, Any]:
        """Return what a run needs to go on beside its weights."""
        return {"first": self.first}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned. ValueError for anything else."""
        first = state["first"]
        if not (isinstance(first, dict) and all(isinstance(value, float) for value in first.values())):
            raise ValueError("the numbers of the first round are missing")
        self.first = dict(first)

    def compile(self) -> None:
        """Compile nothing, which no recipe can ask for: a round is generated in other shapes than it is learnt."""
        return

    def close(self) -> None:
        """End what rewards have running."""
        self.rewards.close()


def shared_request(candidate: Candidate) -> Request:
    """Return the request of a candidate with the seed of what its group shares."""
    return replace(candidate.request, seed=candidate.shared_seed)
