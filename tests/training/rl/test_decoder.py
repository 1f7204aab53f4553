"""The decoder under rewards: a round is what `generate` makes, and two sets of weights generate and learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glmkit.config import DecoderStage
from glmkit.generation.denoising import decode_prior_tokens
from glmkit.generation.pipeline import generate_batch
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.models.hybrid import HybridModel
from glmkit.records import Prompt, Request
from glmkit.training import lora
from glmkit.training.context import StageContext
from glmkit.training.features import FeatureCache
from glmkit.training.loop import Loop
from glmkit.training.objectives.regularization import without_adapters
from glmkit.training.rl import Positions
from glmkit.training.rl.decoder import DecoderRewardObjective, precompute
from glmkit.training.rl.prompts import PromptDataset
from glmkit.training.rl.rounds import candidates

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("brightness")
SIZE = 4  # of a round, in groups of 2


def objective(model: Path, folder: Path, effect: float = 0.0, **rl: Any) -> DecoderRewardObjective:
    """The objective of a stage whose adapters change something, if they have an effect."""
    requests = [
        Request(word, f"a poster with '{word}'", seed, 32, 64, steps=2, guidance=1.5)
        for seed, word in enumerate(("ONE", "TWO"))
    ]
    both = PromptDataset([(Prompt(one.id, one.prompt), one) for one in requests])
    adapters = {"rank": 4, "alpha": 8, "targets": ["to_q", "to_v", "proj_out"]}
    settings = {"rewards": {"weights": {"brightness": 1}}, "group_size": 2, **rl}
    values = {"lora": adapters, "steps": 6, "global_batch_size": SIZE, "learning_rate": 0.01, "rl": settings}
    stage = DecoderStage.model_validate(values)
    hybrid = HybridModel(model)
    glyphs = precompute(hybrid, (both, both), stage, FeatureCache(CPU))
    torch.manual_seed(0)
    assert stage.lora is not None
    lora.inject(hybrid.decoder, stage.lora)
    with torch.no_grad():
        for name, value in hybrid.decoder.named_parameters():
            if "lora_B" in name:
                value.normal_(std=effect)
    context = StageContext(folder, "decoder", 5, CPU)
    return DecoderRewardObjective(hybrid, glyphs, (both, both), stage, context)


def loop(one: DecoderRewardObjective, **changes: Any) -> Loop:
    return Loop(one, Positions(SIZE), one.stage.model_copy(update=changes), one.context)


def float_values(passes: list[dict[str, Tensor]]) -> dict[str, float]:
    (values,) = passes
    return {name: float(value) for name, value in values.items()}


def test_without_adapters_an_image_is_that_of_generate(tiny_model: Path, tmp_path: Path) -> None:
    """Bit for bit; the others of its group have its prior tokens, and noise of their own."""
    one, plain = objective(tiny_model, tmp_path, effect=0.3), HybridModel(tiny_model)
    every = candidates(one.prompts, [0, 1], 2, 5, 0)
    with without_adapters(one.trained):
        found = [image.tobytes() for image, _ in one.generate(every)]
    (first,) = generate_batch(plain, [every[0].request])
    prior = generate_prior_tokens(plain, [replace(every[1].request, seed=every[1].shared_seed)])
    (second,) = decode_prior_tokens(plain, [every[1].request], prior)
    assert found[:2] == [first.tobytes(), second.tobytes()]
    assert one.generate(every[:1])[0][0].tobytes() != found[0], "adapters reach what is generated"


def test_a_learning_rate_of_0_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    one = objective(tiny_model, tmp_path, updates=2)
    before = [value.clone() for value in one.parameters]
    training = loop(one, learning_rate=0.0)
    first, second = (float_values(training.take_step()) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one.parameters, before, strict=True))
    assert first["drift"] == second["drift"] == 0
    assert first["brightness"] == pytest.approx(1, abs=0.2)
    assert "reward" not in second
    assert one.advantages.view(-1, 2).sum(dim=1).abs().max() < 1e-5


def test_the_velocity_moves_as_rewards_say(tiny_model: Path, tmp_path: Path) -> None:
    """After some updates on one round it is nearer to the better image of a group than to the worse one."""
    one = objective(tiny_model, tmp_path, updates=6, times_per_image=4, kl_weight=0.0)
    training = loop(one, weight_decay=0.0)
    training.take_step()
    better, worse = ([int(at) for at in (one.advantages * sign > 0).nonzero()] for sign in (1, -1))

    def errors() -> list[float]:
        generator = torch.Generator().manual_seed(1)
        inputs = one._sample_inputs(list(range(SIZE)), generator, slice(None))
        with torch.no_grad():
            error = (one._velocity(inputs) - inputs.target).square().mean(dim=(1, 2, 3)).view(SIZE, -1).mean(dim=1)
        return [float(error[which].mean()) for which in (better, worse)]

    with one.generating():
        before = errors()
    for _ in range(5):
        training.take_step()
    after = errors()
    assert after[0] - before[0] < after[1] - before[1] - 1e-3


def test_the_weights_that_generate_lag_behind(tiny_model: Path, tmp_path: Path) -> None:
    """By a decay that grows from round to round; a state holds them, and another objective takes them."""
    one = objective(tiny_model, tmp_path, old_decay=0.6, old_decay_growth=0.5, old_decay_start=1)
    seen = []
    for number in range(4):
        with torch.no_grad():
            one.parameters[1].fill_(float(number))
        one.begin_round(number)
        assert one.old is not None
        seen.append(float(one.old.shadow[1].flatten()[0]))
    expected = [0.0, 1.0, 0.5 * 1.0 + 0.5 * 2, 0.6 * 1.5 + 0.4 * 3]
    assert seen == pytest.approx(expected)
    other = objective(tiny_model, tmp_path)
    other.load_state(one.state())
    assert one.old is not None
    assert other.old is not None
    assert all(torch.equal(*pair) for pair in zip(other.old.shadow, one.old.shadow, strict=True))
    assert float(one.parameters[1].detach().flatten()[0]) == 3
    with one.generating():
        assert float(one.parameters[1].detach().flatten()[0]) == pytest.approx(expected[-1])
    assert float(one.parameters[1].detach().flatten()[0]) == 3
