"""The one loop: the schedule, accumulation, averaging, what it logs, and what stops it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from regression import Regression, equal, loop_in, stage, weights
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.files import read_jsonl
from glmkit.models import devices
from glmkit.training import loop as loop_module
from glmkit.training.context import StageContext, step_generator
from glmkit.training.optimizers import Averaged, learning_rate
from glmkit.training.samples import Sample


def test_the_learning_rate() -> None:
    of = stage(steps=100, warmup_steps=10, decay_fraction=0.2, learning_rate=1.0)
    expected = {0: 0.1, 4: 0.5, 9: 1.0, 50: 1.0, 80: 1.0, 90: 0.5, 99: 0.05}
    assert {step: pytest.approx(learning_rate(step, of)) for step in expected} == expected
    flat = stage(steps=100, decay_fraction=0.0, learning_rate=1.0)
    assert {learning_rate(step, flat) for step in range(100)} == {1.0}
    falling = stage(steps=4, decay_fraction=1.0, learning_rate=1.0)
    assert [learning_rate(step, falling) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_the_optimizer_uses_it(tmp_path: Path) -> None:
    """One step of AdamW from zero moments moves every weight by the learning rate; vectors do not decay."""
    objective = Regression()
    before = weights(objective)
    loop = loop_in(tmp_path, objective, steps=10, warmup_steps=5, weight_decay=0.5)
    loop.take_step()
    for old, new in zip(before, weights(objective), strict=True):
        decayed = old * (1 - 0.01 * 0.5) if old.ndim > 1 else old
        torch.testing.assert_close((new - decayed).abs(), torch.full_like(old, 0.01), atol=1e-5, rtol=0)


def test_accumulated_equals_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, not weights: AdamW forgives a wrong factor."""
    gradients = []
    for micro_batch_size in (4, 2, 1):
        loop = loop_in(
            tmp_path / str(micro_batch_size), Regression(), micro_batch_size=micro_batch_size, max_grad_norm=1e9
        )
        monkeypatch.setattr(
            loop.optimizers[0],
            "step",
            lambda loop=loop: gradients.append(torch.cat([p.grad.flatten() for p in loop.parameters])),
        )
        loop.take_step()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[2], atol=1e-6, rtol=0)
    assert gradients[0].abs().max() > 0.01


def test_what_is_logged_is_of_the_whole_batch(tmp_path: Path) -> None:
    for size in (4, 1):
        loop_in(tmp_path / str(size), Regression(), micro_batch_size=size, save_every=2).run(lambda: None)
    logs = [read_jsonl(tmp_path / name / "decoder.log.jsonl") for name in ("4", "1")]
    once, divided = ([row for row in log if "error" in row] for log in logs)
    assert [row["step"] for row in once] == [2, 4, 6, 8]
    for one, other in zip(once, divided, strict=True):
        assert one["loss"] == one["error"] == pytest.approx(other["loss"], abs=1e-5) == other["error"]


def test_micro_batches_draw_their_own_numbers(tmp_path: Path) -> None:
    """Objectives seed what must be known on the CPU by the generator's seed: it must not repeat within a step."""
    seeds: list[tuple[int, ...]] = []

    class Listening(Regression):
        def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            seeds.append((generator.initial_seed(), *torch.randint(1 << 60, (2,), generator=generator).tolist()))
            return super().loss(indices, generator)

    loop_in(tmp_path, Listening(), steps=3, micro_batch_size=1).run(lambda: None)
    assert len(seeds) == 12
    assert all(len(set(column)) == 12 for column in zip(*seeds, strict=True))


def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_in(tmp_path, Regression(), max_grad_norm=1e-3)
    norms: list[float] = []

    def record(*_: Any) -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in loop.parameters if p.grad is not None]).norm()))

    monkeypatch.setattr(loop.optimizers[0], "step", record)
    loop.take_step()
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_averages() -> None:
    """Against the recursion written out, with the warm-up of the decay; swapping twice changes nothing."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    averaged, expected = Averaged([parameter], 0.9), parameter.detach().clone().double()
    for step in range(1, 200):
        with torch.no_grad():
            parameter.add_(0.1 * step)
        averaged.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
    torch.testing.assert_close(averaged.shadow[0].double(), expected, rtol=1e-4, atol=0)
    current, shadow = parameter.detach().clone(), averaged.shadow[0].clone()
    averaged.swap()
    assert torch.equal(parameter, shadow)
    assert torch.equal(averaged.shadow[0], current)
    averaged.swap()
    assert torch.equal(parameter, current)
    assert torch.equal(averaged.shadow[0], shadow)


def test_averaged_weights_are_what_is_exported_and_scored(tmp_path: Path) -> None:
    objective, exported = Regression(), []
    loop = loop_in(tmp_path, objective, ema=0.9, save_every=3)
    result = loop.run(lambda: exported.append(weights(objective)))
    assert len(exported) == 3
    assert objective.finished == 1
    assert equal(exported[-1], weights(objective))
    assert not equal(exported[-1], exported[-2])
    assert loop.averaged
    assert not equal(loop.averaged.shadow, exported[-1]), "the raw weights are the other ones"
    assert result["after"] == objective.validation_losses()
    state = torch.load(loop.context.state, weights_only=True)
    assert not equal(list(state["model"].values()), exported[-1]), "a state holds the raw weights"
    assert equal(state["averaged"], exported[-1])


@pytest.mark.parametrize("save_every", [0, 3])
def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path, save_every: int) -> None:
    """Said with what to type; no broken weights are exported or saved."""
    exported: list[int] = []
    loop = loop_in(tmp_path, Regression(fail_at=2), save_every=save_every)
    with pytest.raises(UserError) as caught:
        loop.run(lambda: exported.append(1))
    assert "the loss is nan" in str(caught.value)
    assert "decoder.learning_rate=0.0125" in str(caught.value)
    assert not exported
    assert not loop.context.state.exists()


def test_weights_that_broke_in_the_last_step_are_not_exported(tmp_path: Path) -> None:
    class Breaking(Regression):
        def after_step(self, step: int, _: torch.Generator) -> None:
            if step == 8:
                next(self.trained.parameters()).data.fill_(float("nan"))

    exported: list[int] = []
    with pytest.raises(UserError, match="a weight is nan at step 8"):
        loop_in(tmp_path, Breaking()).run(lambda: exported.append(1))
    assert not exported


def test_the_log(tmp_path: Path) -> None:
    """Losses every 20 steps and at the end; validation losses at the start, when asked, and at the end."""
    shown, logged = list[tuple[int, str]](), list[int]()

    class Recorder:
        def log(self, line: Mapping[str, Any]) -> None:
            logged.append(line["step"])

        def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
            shown.extend((step, sample.prompt) for sample in samples)

    loop = loop_in(tmp_path, Regression(), steps=45, validation_every=15)
    loop.trackers = [Recorder()]
    result = loop.run(lambda: None, lambda step: [Sample(f"after {step}", Image.new("RGB", (1, 1)))], 30)
    rows = read_jsonl(loop.context.log)
    assert [row["step"] for row in rows if "loss" in row] == [20, 40, 45]
    validation = {row["step"]: row["validation"] for row in rows if "validation" in row}
    assert list(validation) == [0, 15, 30, 45]
    assert shown == [(step, f"after {step}") for step in (0, 30, 45)]
    assert logged == [row["step"] for row in rows]
    assert result["before"] == validation[0]
    assert result["after"] == validation[45]
    assert result["after"]["loss"] < result["before"]["loss"]
    assert result["steps"] == 45
    assert result["peak_bytes"] is None


def test_training_drops_and_scoring_does_not(tmp_path: Path) -> None:
    """Dropout acts in every step, also after a look at the validation images, and never in a validation loss."""
    objective = Regression(dropout=0.5)
    objective.trained.eval()  # as a part comes from its folder
    scores: list[bool] = []
    validation = objective.validation_losses

    def listening() -> dict[str, float]:
        scores.append(objective.trained.training)
        return validation()

    objective.validation_losses = listening  # type: ignore[method-assign]
    loop_in(tmp_path, objective, validation_every=2).run(lambda: None)
    assert objective.modes == {True}
    assert set(scores) == {False}


def test_seeds_of_steps_differ() -> None:
    place = StageContext(Path("x"), "vae", 3, torch.device("cpu"))
    seeds = {step_generator(place, step).initial_seed() for step in range(100)}
    assert len(seeds) == 100
    other = StageContext(Path("x"), "vae", 4, torch.device("cpu"))
    assert step_generator(other, 1).initial_seed() not in seeds
    assert step_generator(place, 7).initial_seed() == int(
        np.random.SeedSequence([3, 7]).generate_state(1, np.uint64)[0] >> 1
    )


class Constant(Regression):
    """Its loss is 0.1 where autocast rounds 48.12 to 48, and 0.1144 where nothing is rounded."""

    def validation_losses(self) -> dict[str, float]:
        with devices.autocast(torch.device("cpu")):
            value = torch.full((1, 1), 48.12) @ torch.ones(1, 1)
        return {"loss": 0.1 + (value.item() - 48.0) ** 2}


@pytest.mark.parametrize(
    ("objective", "name"),
    [(Constant, "autoregressive"), (Constant, "decoder"), (Regression, "autoregressive")],
)
def test_weights_that_need_the_rounding_of_bfloat16_are_told(
    objective: type[Regression],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in (devices, loop_module):
        monkeypatch.setattr(module, "dtype_for", lambda _: torch.bfloat16)  # as on a GPU
    loop = loop_in(tmp_path, objective(), steps=2)
    loop.context = replace(loop.context, name=name)
    loop.run(lambda: None)
    warned = "is 0.1 in bfloat16 and 0.1144 in float32" in " ".join(capsys.readouterr().err.split())
    assert warned == (objective is Constant and name == "autoregressive")
    assert not devices.ALWAYS_FLOAT32.get()
