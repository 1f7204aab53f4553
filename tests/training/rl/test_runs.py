"""`glmkit finetune` with rewards: a run goes on as if it had never stopped, is the same by two processes, raises a
reward, and stops when that is gamed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import TORCHRUN, free_port, launch
from safetensors.torch import load_file

from glmkit import config
from glmkit.cli import main
from glmkit.files import read_json, read_jsonl
from glmkit.models.hybrid import HybridModel
from glmkit.training.context import StageContext
from glmkit.training.loop import Loop
from glmkit.training.stage import open_model

pytestmark = pytest.mark.usefixtures("brightness")
SCRIPT = str(Path(__file__).parent / "planted" / "run.py")
STAGES: dict[str, dict[str, Any]] = {
    "autoregressive": {
        "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj", "down_proj", "lm_head"]},
        "learning_rate": 0.02,
        "rl": {},
    },
    "decoder": {
        "lora": {"rank": 4, "alpha": 8, "targets": ["to_q", "to_v", "ff.net.2", "proj_out"]},
        "learning_rate": 0.02,
        "rl": {"updates": 2, "old_decay": 0.5, "group_size": 2, "rewards": {"weights": {"brightness": 1}}},
    },
}

RULES = {"steps": 2, "global_batch_size": 4}


@pytest.fixture(
    scope="module", params=[pytest.param("autoregressive", marks=pytest.mark.thorough), pytest.param("decoder")]
)
def stage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def recipe(stage: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(stage)
    prompts = [{"prompt": f"a poster with '{word}'", "size": "64x32"} for word in ("ONE", "TWO", "TEN")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))
    settings = STAGES[stage]
    updates = settings["rl"].get("updates", 1)
    rl = {"rewards": {"weights": {"brightness": 1}}, "group_size": 2, "denoising_steps": 1, **settings["rl"]}
    values = {
        "model": str(tiny_model),
        "output": str(folder / "run"),
        "data": {"prompts": str(folder / "prompts.jsonl"), "validation": 0.3},
        stage: {"steps": 2 * updates, "global_batch_size": 4, "save_every": updates, **settings, "rl": rl},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def train(recipe: Path, *arguments: str) -> int:
    return main(["finetune", str(recipe), *arguments, "--device", "cpu"])


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """The folder of a finished run. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        from glmkit.training.rl import rewards

        patch.setattr(rewards, "__path__", [*rewards.__path__, str(Path(SCRIPT).parent)])
        assert train(recipe) == 0
    return recipe.parent / "run"


def log(run: Path, stage: str) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name != "time"}
        for line in read_jsonl(run / f"{stage}.log.jsonl")
    ]


def adapter(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / stage / "adapter_model.safetensors")


def assert_equal(run: Path, other: Path, stage: str) -> None:
    ours, theirs = adapter(run, stage), adapter(other, stage)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert log(run, stage) == log(other, stage)


def test_a_stopped_run_goes_on(recipe: Path, stage: str, finished: Path, tmp_path: Path) -> None:
    """The round that was begun is generated again, alike to the last bit; the report shows the rewards."""
    step = Loop.take_step

    def stop(self: Loop) -> Any:
        if self.step == self.stage.save_every:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "take_step", stop)
        assert train(recipe, f"output={tmp_path / 'run'}") == 130
    assert train(recipe, f"output={tmp_path / 'run'}") == 0
    assert_equal(tmp_path / "run", finished, stage)
    result = read_json(finished / f"{stage}.json")
    assert result["before"]["reward"] == -result["before"]["loss"] != result["after"]["reward"]
    lines = [line for line in log(finished, stage) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    rewards = [(line["reward"], line["reward/brightness"]) for line in lines if "reward" in line]
    assert len(rewards) == 2
    assert all(whole == pytest.approx(part) for whole, part in rewards)
    report = (finished / "report.html").read_text()
    for shown in ("Reward from", "validation reward, the same prompts and seeds", "reward/brightness", "edge density"):
        assert shown in report


@pytest.mark.thorough
def test_a_limit_stops_a_run(recipe: Path, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = f"{stage}.rl.limits.brightness=[0,0.1]"
    assert train(recipe, f"output={tmp_path / 'run'}", limit) == 2
    said = capsys.readouterr().err
    assert f"{stage}: brightness left its limits at step 1: the reward is gamed" in said
    assert f"{stage}.rl.limits.brightness=[" in said
    assert log(tmp_path / "run", stage)[-1]["step"] == 1, "the numbers that stopped it are in the log"


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["autoregressive"], indirect=True)
def test_what_follows_generates_with_the_adapter_beside_the_weights(recipe: Path, stage: str, finished: Path) -> None:
    """Not merged into them: the decoder's rounds have the tokens of the AR model as it has just been learnt."""
    assert (finished / f"{stage}.json").exists()
    settings = config.load(recipe, [f"decoder={json.dumps({**STAGES['decoder'], **RULES})}"])
    context = StageContext(finished, "decoder", 0, torch.device("cpu"))
    assert settings.decoder is not None
    hybrid = open_model(context, settings.decoder, settings, Path(settings.model))
    plain = HybridModel(Path(settings.model))
    base = hybrid.autoregressive.lm_head.get_base_layer()  # type: ignore[operator]
    assert torch.equal(base.weight, plain.autoregressive.lm_head.weight)
    inputs = torch.randn(3, base.in_features, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(hybrid.autoregressive.lm_head(inputs), plain.autoregressive.lm_head(inputs))
    assert not any(value.requires_grad for value in hybrid.autoregressive.parameters())


@pytest.mark.thorough
def test_a_killed_run_goes_on(recipe: Path, stage: str, finished: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        SCRIPT,
        f"kill={stage}:{2 if stage == 'decoder' else 1}",
        "finetune",
        str(recipe),
        f"output={tmp_path / 'run'}",
        "--device",
    ]
    killed = subprocess.run([*command, "cpu"], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert train(recipe, f"output={tmp_path / 'run'}") == 0
    assert_equal(tmp_path / "run", finished, stage)


@pytest.mark.thorough
def test_two_processes_share_a_round(recipe: Path, stage: str, tmp_path: Path) -> None:
    """Each generates and learns half of it: with groups of four, half a group."""
    one, two = tmp_path / "one", tmp_path / "two"
    whole = [f"{stage}.rl.group_size=4"]
    assert train(recipe, f"output={one}", *whole) == 0
    result = launch(*TORCHRUN, free_port(), SCRIPT, "finetune", str(recipe), f"output={two}", *whole, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    for ours, theirs in zip(log(one, stage), log(two, stage), strict=True):
        assert ours.pop("validation", {}) == pytest.approx(theirs.pop("validation", {}), rel=1e-4)
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    ours, theirs = adapter(one, stage), adapter(two, stage)
    assert max((value - theirs[name]).square().mean().sqrt().item() for name, value in ours.items()) < 1e-4


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["decoder"], indirect=True)
def test_a_planted_reward_rises_and_is_stopped(
    recipe: Path, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within 15 rounds; a limit ends the run before."""
    rl = ("group_size=16", "updates=4", "beta=0.1", "old_decay=0", "kl_weight=0", "denoising_steps=4")
    loop = ("steps=60", "save_every=0", "global_batch_size=32", "learning_rate=0.01")
    changes = [*(f"{stage}.{change}" for change in loop), *(f"{stage}.rl.{change}" for change in rl)]
    changes.append(f"{stage}.rl.generate_at_once=32")
    assert train(recipe, f"output={tmp_path / 'free'}", *changes, f"{stage}.rl.limits={{brightness: null}}") == 0
    lines = log(tmp_path / "free", stage)
    rewards = [line["reward"] for line in lines if "reward" in line]
    validation = [line["validation"]["reward"] for line in lines if "validation" in line]
    assert len(rewards) == 15
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.01
    assert validation[-1] > validation[0] + 0.005
    highest = max(line["brightness"] for line in lines if "reward" in line and line["step"] > 20) - 1e-4
    capsys.readouterr()
    limit = f"{stage}.rl.limits.brightness=[0.9,{highest}]"
    assert train(recipe, f"output={tmp_path / 'limited'}", *changes, limit) == 2
    assert f"{stage}: brightness left its limits at step" in capsys.readouterr().err
    assert 4 < log(tmp_path / "limited", stage)[-1]["step"] < 60
