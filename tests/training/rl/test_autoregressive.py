"""The AR model under rewards: a round is what `generate` makes, and its probabilities are those that sampled it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from glmkit.config import AutoregressiveStage, Lora
from glmkit.errors import UserError
from glmkit.generation.pipeline import generate_batch
from glmkit.generation.prior_tokens import generate_grids, prompt_tokenizer
from glmkit.generation.sampling import sample, top_k_top_p, uniforms
from glmkit.models.devices import autocast
from glmkit.models.hybrid import HybridModel
from glmkit.records import Prompt, Request
from glmkit.training import lora
from glmkit.training.context import StageContext
from glmkit.training.loop import Loop
from glmkit.training.objectives.regularization import without_adapters
from glmkit.training.rl import Positions
from glmkit.training.rl.autoregressive import AutoregressiveRewardObjective, SampledTokens
from glmkit.training.rl.prompts import PromptDataset
from glmkit.training.rl.rounds import Candidate, candidates

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("brightness")
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj", "down_proj", "lm_head"]}
SIZE = 4  # of a round, in groups of 2


def prompts(height: int = 32, width: int = 64) -> PromptDataset:
    requests = [
        Request(word, f"a poster with '{word}'", seed, height, width, steps=2, guidance=1.5)
        for seed, word in enumerate(("ONE", "TWO"))
    ]
    return PromptDataset([(Prompt(one.id, one.prompt), one) for one in requests])


def objective(
    model: Path,
    folder: Path,
    effect: float = 0.0,
    kind: type[AutoregressiveRewardObjective] = AutoregressiveRewardObjective,
    both: PromptDataset | None = None,
    **rl: Any,
) -> AutoregressiveRewardObjective:
    """The objective of a stage whose adapters change something, if they have an effect."""
    settings: dict[str, Any] = {"rewards": {"weights": {"brightness": 1}}, "group_size": 2, **rl}
    size = max(SIZE, 2 * settings["group_size"])
    values = {"lora": LORA, "steps": 3, "global_batch_size": size, "learning_rate": 0.01, "rl": settings}
    stage = AutoregressiveStage.model_validate(values)
    hybrid = HybridModel(model)
    torch.manual_seed(0)
    assert stage.lora is not None
    lora.inject(hybrid.autoregressive, stage.lora)
    with torch.no_grad():
        for name, value in hybrid.autoregressive.named_parameters():
            if "lora_B" in name:
                value.normal_(std=effect)
    both = both or prompts()
    return kind(hybrid, (both, both), stage, StageContext(folder, "autoregressive", 5, CPU))


def weights(one: AutoregressiveRewardObjective) -> list[Tensor]:
    return [value.detach().clone() for value in one.trained.parameters() if value.requires_grad]


def test_without_adapters_an_image_is_that_of_generate(tiny_model: Path, tmp_path: Path) -> None:
    """Bit for bit, though its group shares a batch; with adapters it is another one."""
    one, plain = objective(tiny_model, tmp_path, effect=0.3), HybridModel(tiny_model)
    every = candidates(one.prompts, [0, 1], 2, 5, 0, temperature=0.9, top_p=0.75, top_k=20)
    with without_adapters(one.trained):
        found = one.generate(every)
    grids = generate_grids(plain, [candidate.request for candidate in every])
    for (_, learnt), expected in zip(found, grids, strict=True):
        assert all(torch.equal(*pair) for pair in zip(learnt.grids, expected, strict=True))
    (image,) = generate_batch(plain, [every[2].request])
    assert found[2][0].tobytes() == image.tobytes()
    adapted = one.generate(every[2:3])[0][1]
    assert not torch.equal(adapted.grids[0], found[2][1].grids[0]), "adapters reach what is generated"


def replay(one: AutoregressiveRewardObjective) -> tuple[float, Tensor]:
    """The share of the round's tokens that sampling picks from the logits of the loss, too, and how likely each is."""
    batch = one._batch([one.learnt[position] for position in range(SIZE)])
    logits, tokens = one._codebook_logits(batch), batch.batch.target_ids_BN[:, :-1]
    seeds = [candidate.request.seed for candidate in candidates(one.prompts, one.batches[0], 2, 5, 0)]
    chances = torch.stack([uniforms(seed, tokens.shape[1]) for seed in seeds])
    again = sample(logits.flatten(0, 1), chances.flatten(), one.sampling).view_as(tokens)
    ids, cumulative, allowed = top_k_top_p(logits.flatten(0, 1), one.sampling)
    shares = cumulative.diff(dim=1, prepend=torch.zeros(len(cumulative), 1)) / cumulative.gather(1, allowed - 1)
    likely = (shares * (ids == tokens.reshape(-1, 1))).sum(dim=1).view_as(tokens)
    return float((again == tokens).float().mean()), likely


@pytest.mark.gpu
def test_recorded_steps_of_adapted_layers_are_those_that_are_launched(tiny_model: Path) -> None:
    """Token for token, in bfloat16 as training holds frozen weights; adapters that changed since count."""
    device = torch.device("cuda")
    hybrid = HybridModel(tiny_model, device, torch.bfloat16)
    model = lora.inject(hybrid.autoregressive, Lora.model_validate(LORA))
    requests, found = [request for request in prompts().requests for _ in range(3)], []
    for effect in (0.1, 0.3):
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_B" in name:
                    value.normal_(std=effect)
        with torch.inference_mode(), lora.autocast_decides(model, True), autocast(device):
            launched, recorded = (generate_grids(hybrid, requests, recorded=one) for one in (False, True))
        both = zip(chain.from_iterable(launched), chain.from_iterable(recorded), strict=True)
        assert all(torch.equal(*pair) for pair in both)
        found.append(recorded[0][-1])
    assert not torch.equal(*found)


def test_the_policy_is_the_one_that_sampled(tiny_model: Path, tmp_path: Path) -> None:
    """At the first update the ratio is 1; later ones learn from the same round, until they are clipped."""
    one = objective(tiny_model, tmp_path, effect=0.3, updates=3, temperature=0.9, top_p=0.75, top_k=20)
    loop = Loop(one, Positions(SIZE), one.stage.model_copy(update={"steps": 3}), one.context)
    first, second, third = (float_values(loop.take_step()) for _ in range(3))
    assert first["clipped"] == 0
    assert abs(first["surprise"]) < 0.1
    assert first["kl"] > 0.01
    # The loss of each part is minus the mean advantage, and advantages of a group add up to 0.
    assert first["loss"] == pytest.approx(one.rl.kl_weight * first["kl"], abs=1e-5)
    assert one.advantages.abs().min() > 0
    assert ["reward" in of_step for of_step in (first, second, third)] == [True, False, False]
    assert second["loss"] < first["loss"] - 1e-3, "better tokens become likelier"
    assert third["clipped"] > 0


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [pytest.param(1.0, 1.0, 0, marks=pytest.mark.thorough), (0.6, 0.75, 20)]
)
def test_a_learning_rate_of_0_changes_nothing(
    tiny_model: Path, tmp_path: Path, temperature: float, top_p: float, top_k: int
) -> None:
    """And the probabilities of the loss are those with which the tokens were sampled."""
    one = objective(tiny_model, tmp_path, temperature=temperature, top_p=top_p, top_k=top_k)
    before = weights(one)
    stage = one.stage.model_copy(update={"learning_rate": 0.0})
    metrics = float_values(Loop(one, Positions(SIZE), stage, one.context).take_step())
    assert all(torch.equal(*pair) for pair in zip(weights(one), before, strict=True))
    assert metrics["kl"] == 0
    assert metrics["loss"] == pytest.approx(0, abs=1e-5)
    same, likely = replay(one)
    assert same > 0.99
    for position in range(SIZE):
        log_probs = one.learnt[position].log_probs
        assert log_probs is not None
        torch.testing.assert_close(log_probs.exp(), likely[position].float(), rtol=1e-3, atol=1e-5)
    assert metrics["brightness"] == pytest.approx(1, abs=0.2)


def float_values(passes: list[dict[str, Tensor]]) -> dict[str, float]:
    (values,) = passes
    return {name: float(value) for name, value in values.items()}


def test_rounds_have_seeds_of_their_own() -> None:
    both = prompts()
    rounds = [candidates(both, [0, 1], 3, seed, number) for seed in (0, 1) for number in (0, 1)]
    seeds = [candidate.request.seed for every in rounds for candidate in every]
    assert len(set(seeds)) == len(seeds) == 24
    assert [candidate.shared_seed for candidate in rounds[0]] == [seeds[0]] * 3 + [seeds[3]] * 3
    assert [candidate.prompt for candidate in rounds[0]] == [0, 0, 0, 1, 1, 1]
    assert candidates(both, [0, 1], 3, 1, 1) == rounds[3]


class Tokens(AutoregressiveRewardObjective):
    """Shows the large grid as levels of grey, in place of what an untrained decoder makes of it."""

    def generate(self, candidates: Sequence[Candidate]) -> list[tuple[Image.Image, SampledTokens]]:
        tokenizer = prompt_tokenizer(self.hybrid.folder)
        found = []
        for candidate, grids in zip(
            candidates, generate_grids(self.hybrid, [one.request for one in candidates]), strict=True
        ):
            request = candidate.request
            image = Image.fromarray((4 * grids[-1]).byte().numpy()).resize((64, 32), Image.Resampling.NEAREST)
            prompt = tokenizer.text_to_image(request.prompt, request.height, request.width)
            found.append((image.convert("RGB"), SampledTokens(prompt, [ids.clone() for ids in grids])))
        return found


@pytest.mark.thorough
def test_a_planted_reward_rises_and_is_stopped(tiny_model: Path, tmp_path: Path) -> None:
    """Within 10 rounds nearly all tokens are bright ones; a limit ends the run before."""
    limits = {"brightness": (0.5, 1.5), "diversity": None, "entropy": None, "kl": None, "edge_density": None}
    settings: dict[str, Any] = {"group_size": 16, "generate_at_once": 32, "limits": {**limits, "colour_entropy": None}}
    both = prompts(128, 128)  # of 16 tokens: the mean of two says little of the base's brightness
    one = objective(tiny_model, tmp_path, kind=Tokens, both=both, **settings)
    one.weights["preview"] = 0.0
    loop = Loop(one, Positions(32), one.stage.model_copy(update={"learning_rate": 0.03, "steps": 100}), one.context)
    rounds = [float_values(loop.take_step()) for _ in range(10)]
    assert rounds[0]["reward"] == pytest.approx(0.5, abs=0.08)
    assert rounds[-1]["reward"] > 0.85
    one.observe(1, rounds[0])
    with pytest.raises(UserError, match="brightness left its limits at step 10"):
        one.observe(10, rounds[-1])
