"""What the loop saves: resumed equals uninterrupted, and which checkpoints are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from regression import Regression, equal, loop_in, stage, weights
from torch import Tensor

from glmkit.errors import UserError
from glmkit.files import read_jsonl
from glmkit.training.libraries import OPTIMIZERS

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
spec = importlib.util.spec_from_file_location("test_states", {file!r})
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


def test_seconds_are_those_of_all_parts_of_a_run(tmp_path: Path) -> None:
    """Of a run that was killed and goes on, not of its last part."""
    loop = loop_in(tmp_path, Regression(fail_at=4), save_every=4)
    loop.started -= 1000
    with pytest.raises(UserError):
        loop.run(lambda: None)
    assert 1000 <= loop_in(tmp_path, Regression(), save_every=4).run(lambda: None)["seconds"] < 1100


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
