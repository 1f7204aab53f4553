"""The AR model learns from rewards by GRPO: groups of images of one prompt that differ in their prior tokens alone.

The decoder starts from the same noise for a whole group, so that what differs in reward comes from the tokens.

B batch, N prior tokens of an image (preview, large grid), V codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from glmkit.config import AutoregressiveStage
from glmkit.config.rl import AutoregressiveRl
from glmkit.generation.denoising import decode_prior_tokens, initial_noise
from glmkit.generation.prior_tokens import generate_grids, prompt_tokenizer
from glmkit.generation.sampling import Sampling
from glmkit.generation.sequence import training_batch
from glmkit.models.hybrid import HybridModel
from glmkit.training.context import StageContext
from glmkit.training.objectives import EVERY
from glmkit.training.objectives.regularization import without_adapters
from glmkit.training.objectives.token_batches import PaddedBatch
from glmkit.training.rl import policy
from glmkit.training.rl.objective import RewardObjective, shared_request
from glmkit.training.rl.prompts import PromptDataset
from glmkit.training.rl.rounds import Candidate


@dataclass
class SampledTokens:
    """The prompt ids of an image, and its grids h w in the order of generation.

    `log_probs` N and `kept` N K are those of the policy that sampled them, known from the first update of a round.
    """

    prompt: list[int]
    grids: list[Tensor]
    log_probs: Tensor | None = None
    kept: Tensor | None = None


class AutoregressiveRewardObjective(RewardObjective[SampledTokens, AutoregressiveRl]):
    """Makes the tokens of better images likelier, and those of worse ones less likely."""

    def __init__(
        self,
        hybrid: HybridModel,
        datasets: tuple[PromptDataset, PromptDataset],
        stage: AutoregressiveStage,
        context: StageContext,
    ) -> None:
        assert stage.rl is not None
        super().__init__(hybrid, datasets, stage, stage.rl, context)
        self.weights = {"preview": stage.preview_weight, "large": 1.0}
        self.sampling = Sampling(stage.rl.temperature, stage.rl.top_p, stage.rl.top_k)

    def request_settings(self) -> dict[str, Any]:
        """Return what the requests of a round have in place of the model's defaults, and how tokens are sampled."""
        sampling = {"temperature": self.rl.temperature, "top_p": self.rl.top_p, "top_k": self.rl.top_k}
        return {**super().request_settings(), **sampling}

    def generate(self, candidates: Sequence[Candidate]) -> list[tuple[Image.Image, SampledTokens]]:
        """Generate images, each with prior tokens by its own seed, and with the noise of its group."""
        requests = [candidate.request for candidate in candidates]
        with self.computing():
            grids = generate_grids(self.hybrid, requests, recorded=True)
        noise = torch.cat([initial_noise(self.hybrid, shared_request(candidate)) for candidate in candidates])
        images = decode_prior_tokens(self.hybrid, requests, [of_image[-1] for of_image in grids], noise)
        tokenizer = prompt_tokenizer(self.hybrid.folder)
        prompts = [tokenizer.text_to_image(one.prompt, one.height, one.width) for one in requests]
        # Copies, since autograd takes no tensors of inference mode.
        learnt = [
            SampledTokens(*one) for one in zip(prompts, ([ids.clone() for ids in of] for of in grids), strict=True)
        ]
        return list(zip(images, learnt, strict=True))

    def loss(
        self, indices: Sequence[int], generator: torch.Generator, rows: slice = EVERY
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clipped loss of GRPO with the divergence from the model without adapters, and what shows it."""
        del generator  # nothing is random
        # 1. Teacher forcing over the sampled tokens, by the model as it is now and without adapters.
        learnt = [self.learnt[position] for position in indices[rows]]
        batch = self._batch(learnt)
        tokens_BN = batch.batch.target_ids_BN[:, :-1]  # the end is not sampled
        logits_BNV = self._codebook_logits(batch)
        with without_adapters(self.trained):
            base_BNV = self._codebook_logits(batch).log_softmax(dim=-1)

        # 2. The probabilities with which sampling picks these tokens, now and when the round began.
        kept = self._kept(learnt, logits_BNV, tokens_BN)
        sampled_BNV = policy.log_distribution(logits_BNV, self.sampling.temperature, kept)
        log_probs_BN = sampled_BNV.gather(-1, tokens_BN[..., None])[..., 0]
        if self.is_first_update:
            for one, values in zip(learnt, log_probs_BN.detach(), strict=True):
                one.log_probs = values
        old_BN = torch.stack([one.log_probs for one in learnt if one.log_probs is not None])

        # 3. The loss, and the divergence from the model without adapters at temperature 1.
        advantages = self.advantages_of(indices[rows])
        losses_BN, clipped_BN = policy.clipped_loss(
            log_probs_BN, old_BN, advantages, self.rl.clip_low, self.rl.clip_high
        )
        now_BNV = logits_BNV.log_softmax(dim=-1)
        divergence_BN = policy.divergence(now_BNV, base_BNV)
        loss = self._mean_of_parts(losses_BN, batch.lengths) + self.rl.kl_weight * divergence_BN.mean()
        with torch.no_grad():
            entropy_BN = policy.entropy(sampled_BNV)
            metrics = {
                "kl": divergence_BN.mean(),
                "entropy": policy.entropy(now_BNV).mean(),
                "clipped": clipped_BN.float().mean(),
            }
            if self.is_first_update:
                # A token is expected to be as likely as the entropy says, if the model that learns has sampled it.
                metrics |= {**self.metrics, "surprise": -(log_probs_BN + entropy_BN).mean()}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _batch(self, learnt: Sequence[SampledTokens]) -> PaddedBatch:
        grids = [torch.stack(of_images) for of_images in zip(*(one.grids for one in learnt), strict=True)]
        lengths = dict(zip(self.weights, (grid[0].numel() for grid in grids), strict=True))
        return PaddedBatch(training_batch([one.prompt for one in learnt], grids, self.trained.config), lengths)

    def _codebook_logits(self, batch: PaddedBatch) -> Tensor:
        """Return the logits B N V among which sampling chooses, without those of the end."""
        return batch.logits(self.trained)[:, :-1, : self.trained.config.codebook_size]

    def _kept(self, learnt: Sequence[SampledTokens], logits_BNV: Tensor, tokens_BN: Tensor) -> Tensor | None:
        """Return the ids B N K that sampling kept when the round began."""
        if self.is_first_update:
            kept_BNK = policy.kept_tokens(logits_BNV, tokens_BN, self.sampling)
            for number, one in enumerate(learnt):
                one.kept = None if kept_BNK is None else kept_BNK[number]
        kept = [one.kept for one in learnt if one.kept is not None]
        if not kept:
            return None
        longest = max(one.shape[-1] for one in kept)
        padded = [torch.nn.functional.pad(one, (0, longest - one.shape[-1]), value=-1) for one in kept]
        return torch.stack(padded)

    def _mean_of_parts(self, values_BN: Tensor, lengths: dict[str, int]) -> Tensor:
        """Average over the tokens of each part, weight the parts, and average over the images."""
        parts = torch.split(values_BN, list(lengths.values()), dim=1)
        return torch.stack([self.weights[name] * part.mean() for name, part in zip(lengths, parts, strict=True)]).sum()
