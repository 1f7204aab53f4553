"""The one loop: resumed equals uninterrupted, the schedule, accumulation, averaging, and what stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
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
from glmkit.training.libraries import OPTIMIZERS
from glmkit.training.optimizers import Averaged, learning_rate
from glmkit.training.samples import Sample

NOISY: dict[str, Any] = {
    "steps": 20,
    "validation_every": 3,
    "ema": 0.9,
    "save_every": 6,
    "warmup_steps": 3,
    "micro_batch_size": 2,
}


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adamw8bit", "prodigy"])
def test_resumed_equals_uninterrupted(tmp_path: Path, optimizer: str) -> None:
    """Stopped between two saved states: the steps since the last one are done again, alike to the last bit."""
    if optimizer in OPTIMIZERS:
        pytest.importorskip(OPTIMIZERS[optimizer])
    settings = {**NOISY, "optimizer": optimizer}
    whole = Regression(noise=0.5, dropout=0.3)
    expected = loop_in(tmp_path / "whole", whole, **settings).run(lambda: None)

    class Killed(Exception):
        pass

    class Dying(Regression):
        def after_step(self, step: int, _: torch.Generator) -> None:
            if step == 10:
                raise Killed

    with pytest.raises(Killed):
        loop_in(tmp_path / "parts", Dying(noise=0.5, dropout=0.3), **settings).run(lambda: None)
    torch.manual_seed(12345)  # a new process has another global state
    resumed, exported = Regression(noise=0.5, dropout=0.3), []
    loop = loop_in(tmp_path / "parts", resumed, **settings)
    result = loop.run(lambda: exported.append(loop.step))
    assert exported == [12, 18, 20], "went on from the state of step 6"
    assert equal(weights(resumed), weights(whole))
    assert (result["before"], result["after"]) == (expected["before"], expected["after"])
    assert result["before"] != result["after"]
    logs = [read_jsonl(tmp_path / name / "decoder.log.jsonl") for name in ("whole", "parts")]
    rows = [[{key: value for key, value in row.items() if key != "time"} for row in log] for log in logs]
    assert rows[0] == rows[1], "steps that were done twice are logged once"


@pytest.mark.parametrize("save_every", [0, 6])
def test_killed_after_the_last_export(tmp_path: Path, save_every: int) -> None:
    """Weights that were trained in place are not trained again; the log and the result are those of one run."""
    whole, settings = Regression(noise=0.5), {**NOISY, "save_every": save_every}
    expected = loop_in(tmp_path, whole, **settings).run(lambda: None)
    log = [row | {"time": 0} for row in read_jsonl(tmp_path / "decoder.log.jsonl")]
    resumed, exported = Regression(noise=0.5), []
    with torch.no_grad():
        for parameter in resumed.trained.parameters():
            parameter.mul_(2)  # what is read from the folder is not what training began with
    result = loop_in(tmp_path, resumed, **settings).run(lambda: exported.append(weights(resumed)))
    assert resumed.steps == 0
    assert equal(weights(resumed), weights(whole))
    assert len(exported) == 1
    assert result | {"seconds": 0} == expected | {"seconds": 0}
    assert [row | {"time": 0} for row in read_jsonl(tmp_path / "decoder.log.jsonl")] == log


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from PIL import Image
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("test_loop", {file!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
class Dying(module.Regression):
    def after_step(self, step, generator):
        if step == 10:
            os.kill(os.getpid(), signal.SIGKILL)
module.loop_in(Path({folder!r}), Dying(noise=0.5), **module.NOISY).run(lambda: None)
"""


def test_a_process_that_is_killed_goes_on(tmp_path: Path) -> None:
    """SIGKILL leaves a complete state and no half file; optimizer and averages are those of an unbroken run."""
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), file=__file__, folder=str(tmp_path / "parts"))
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=False, capture_output=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert sorted(os.listdir(tmp_path / "parts")) == ["decoder.log.jsonl", "decoder.state.pt"]
    whole, resumed = Regression(noise=0.5), Regression(noise=0.5)
    loops = loop_in(tmp_path / "whole", whole, **NOISY), loop_in(tmp_path / "parts", resumed, **NOISY)
    for loop in loops:
        loop.run(lambda: None)
        assert loop.step == 20
    assert equal(weights(whole), weights(resumed))
    for loop in loops:
        loop.stage = stage(**{**NOISY, "steps": 40})
        loop.take_step()  # one step more shows the optimizer's state
    assert equal(weights(whole), weights(resumed))
    assert loops[0].averaged
    assert loops[1].averaged
    assert equal(loops[0].averaged.shadow, loops[1].averaged.shadow)


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


def test_seconds_are_those_of_all_parts_of_a_run(tmp_path: Path) -> None:
    """Of a run that was killed and goes on, not of its last part."""
    loop = loop_in(tmp_path, Regression(fail_at=4), save_every=4)
    loop.started -= 1000
    with pytest.raises(UserError):
        loop.run(lambda: None)
    assert 1000 <= loop_in(tmp_path, Regression(), save_every=4).run(lambda: None)["seconds"] < 1100


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


def test_a_full_disk_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises a RuntimeError about positions in an archive."""
    loop = loop_in(tmp_path, Regression(), save_every=2)
    written = torch.save

    def full(state: Any, path: Path) -> None:
        if state["step"] == 2:
            return written(state, path)
        path.unlink()
        path.symlink_to("/dev/full")
        written(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"no space left while writing .*decoder.state.pt"):
        loop.run(lambda: None)
    assert sorted(os.listdir(tmp_path)) == ["decoder.log.jsonl", "decoder.state.pt"]
    assert torch.load(loop.context.state, weights_only=True)["step"] == 2


def test_weights_that_broke_in_the_last_step_are_not_exported(tmp_path: Path) -> None:
    class Breaking(Regression):
        def after_step(self, step: int, _: torch.Generator) -> None:
            if step == 8:
                next(self.trained.parameters()).data.fill_(float("nan"))

    exported: list[int] = []
    with pytest.raises(UserError, match="a weight is nan at step 8"):
        loop_in(tmp_path, Breaking()).run(lambda: exported.append(1))
    assert not exported


def test_the_state_of_an_adapter_leaves_its_base_out(tmp_path: Path) -> None:
    lora = {"lora": {"targets": ["0"]}, "save_every": 4}
    objective = Regression()
    objective.trained[2].requires_grad_(False)  # type: ignore[index]
    loop = loop_in(tmp_path, objective, **lora)
    loop.run(lambda: None)
    assert set(torch.load(loop.context.state, weights_only=True)["model"]) == {"0.weight", "0.bias"}
    resumed = Regression()
    resumed.trained[2].requires_grad_(False)  # type: ignore[index]
    loop_in(tmp_path, resumed, **lora).run(lambda: None)
    assert equal(weights(resumed), weights(objective))


def test_kept_checkpoints_are_the_adapters_of_their_steps(tmp_path: Path) -> None:
    """Also when a run was killed between a state and its copy; those of the last step are the adapter itself."""
    settings = {"lora": {"targets": ["0"]}, "save_every": 2, "keep_checkpoints": True, "steps": 6}
    adapter, kept = tmp_path / "adapter" / "decoder", tmp_path / "checkpoints" / "decoder"

    def exporting(objective: Regression, kill_at: int = 0) -> Callable[[], None]:
        def export() -> None:
            if kill_at and objective.steps == kill_at:
                raise KeyboardInterrupt
            adapter.mkdir(parents=True, exist_ok=True)
            torch.save(weights(objective), adapter / "weights")

        return export

    first, second, whole = Regression(), Regression(), Regression()
    with pytest.raises(KeyboardInterrupt):
        loop_in(tmp_path, first, **settings).run(exporting(first, kill_at=4))
    assert [path.name for path in kept.iterdir()] == ["000002"]
    loop_in(tmp_path, second, **settings).run(exporting(second))
    assert sorted(path.name for path in kept.iterdir()) == ["000002", "000004"]
    by_step: list[list[Tensor]] = []
    unkept = {**settings, "keep_checkpoints": False}
    loop_in(tmp_path / "whole", whole, **unkept).run(lambda: by_step.append(weights(whole)))
    for step, expected in ((2, by_step[0]), (4, by_step[1])):
        assert equal(torch.load(kept / f"{step:06}" / "weights"), expected)
    assert equal(torch.load(adapter / "weights"), by_step[2])


@pytest.mark.parametrize("changes", [{"save_every": 2}, {"lora": {"targets": ["0"]}}])
def test_only_adapters_that_are_saved_can_be_kept(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="keep_checkpoints: true needs a lora section, and save_every"):
        stage(keep_checkpoints=True, **changes)


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
