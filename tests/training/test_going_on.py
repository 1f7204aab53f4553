"""Runs that go on in another way than they began, or begin with an adapter; and files in them that somebody spoilt."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from glmkit import finetune
from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.files import append_jsonl, read_json, read_jsonl
from glmkit.training.loop import Loop

STAGE = "autoregressive"


@pytest.fixture(scope="module")
def recipe(tiny_model: Path, posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("going-on")
    lora = {"rank": 2, "alpha": 3, "dropout": 0.2, "targets": ["q_proj"]}
    values = {
        "model": str(tiny_model),
        "output": str(folder / "run"),
        "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
        STAGE: {"lora": lora, "steps": 4, "global_batch_size": 2, "learning_rate": 0.01, "save_every": 2, "ema": 0.5},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def train(recipe: Path, *arguments: str) -> int:
    return main(["finetune", str(recipe), *arguments, "--device", "cpu"])


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """The folder of a finished run. Read only: copy it."""
    assert train(recipe) == 0
    return recipe.parent / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def half(recipe: Path) -> Path:
    """The folder of a run that was stopped after step 3 of 4, whose last state is of step 2. Read only: copy it."""
    step = Loop.take_step

    def stop(self: Loop) -> Any:
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "take_step", stop)
        assert train(recipe, f"output={recipe.parent / 'half'}") == 130
    return recipe.parent / "half"


@pytest.fixture
def stopped(half: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half, tmp_path / "stopped"))


@pytest.fixture(autouse=True)
def shared_cache(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMKIT_CACHE", str(recipe.parent / "cache"))


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / STAGE / "adapter_model.safetensors")


def distance(one: Path, other: Path) -> float:
    theirs = adapter(other)
    return max((value - theirs[name]).abs().max().item() for name, value in adapter(one).items())


def test_a_run_and_its_model_may_move(recipe: Path, run: Path, tiny_model: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    assert train(recipe, f"output={run}", f"model={moved}") == 0
    path = moved / "vae" / "config.json"
    path.write_text(path.read_text().replace("1.5", "1.25"))
    assert train(recipe, f"output={run}", f"model={moved}") == 2


def test_what_changes_no_number_is_free(recipe: Path, finished: Path, stopped: Path) -> None:
    free = [f"{STAGE}.{change}" for change in ("gradient_checkpointing=1", "save_every=0", "validation_every=1")]
    assert (
        train(
            recipe, f"output={stopped}", *free, "data.gpu_cache_gib=2", "samples.every=3", f"{STAGE}.lora.offload=false"
        )
        == 0
    )
    assert distance(stopped, finished) == 0


@pytest.mark.parametrize("kind", ["stopped", "run"])
def test_more_steps_need_one_word(
    recipe: Path, finished: Path, kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(kind)
    more = [f"output={folder}", f"{STAGE}.steps=5", f"{STAGE}.learning_rate=1e-9", f"{STAGE}.ema=0.5"]
    before = (folder / "manifest.json").read_bytes()
    capsys.readouterr()
    assert train(recipe, *more) == 2
    assert "--allow-changes" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before
    assert train(recipe, *more, "--allow-changes") == 0
    assert train(recipe, *more) == 0, "from now on these are its settings"
    assert "already done" in capsys.readouterr().err
    changes = read_json(folder / "manifest.json")["resumed"][-2]["changes"]
    assert changes == {f"{STAGE}.learning_rate": [0.01, 1e-9], f"{STAGE}.steps": [4, 5]}
    result = read_json(folder / f"{STAGE}.json")
    assert (result["steps"], result["before"]) == (5, read_json(finished / f"{STAGE}.json")["before"])
    logged = [line["step"] for line in read_jsonl(folder / f"{STAGE}.log.jsonl") if "loss" in line]
    assert logged == [2, 4, 5]
    assert (distance(folder, finished) < 1e-6) == (kind == "run"), "a finished run goes on from its end"
    assert not (folder / f"{STAGE}.state.pt").exists()


NOT_ALLOWED = {
    "rate of a finished run": ([f"{STAGE}.learning_rate=0.1"], f"{STAGE}.steps=8"),
    "fewer steps": ([f"{STAGE}.steps=3"], f"{STAGE}.steps=8"),
    "rank": ([f"{STAGE}.lora.rank=4", f"{STAGE}.steps=9"], "lora.rank was 2, now 4"),
    "seed": (["seed=3"], "seed was 0, now 3"),
    "optimizer": ([f"{STAGE}.optimizer=muon"], "optimizer was"),
}


@pytest.mark.parametrize("kind", NOT_ALLOWED)
def test_what_no_word_allows(recipe: Path, run: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    overrides, said = NOT_ALLOWED[kind]
    before = (run / "manifest.json").read_bytes()
    assert train(recipe, f"output={run}", *overrides, "--allow-changes") == 2
    assert said in capsys.readouterr().err
    assert (run / "manifest.json").read_bytes() == before


def test_the_advice_after_a_broken_loss_works(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Loop.take_step

    def breaking(self: Loop) -> Any:
        metrics = step(self)
        if self.step == 3:
            self.parameters[0].data.fill_(math.nan)
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "take_step", breaking)
        assert train(recipe, f"output={tmp_path / 'run'}") == 2
    advice = capsys.readouterr().err.split(": ")[-1].split()
    assert train(recipe, f"output={tmp_path / 'run'}", *advice) == 0
    assert all(value.isfinite().all() for value in adapter(tmp_path / "run").values())


def test_a_rate_without_end_is_no_rate(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(recipe, f"{STAGE}.learning_rate=.inf") == 2
    assert "finite number" in capsys.readouterr().err


def test_a_run_begins_with_an_adapter(recipe: Path, finished: Path, tmp_path: Path) -> None:
    """With that of a run and of PEFT; by the command line and by Python. The manifest has its content."""
    slow = [f"{STAGE}.steps=1", f"{STAGE}.learning_rate=1e-9"]
    peft = tmp_path / "peft"
    shutil.copytree(finished / "adapter" / STAGE, peft, ignore=shutil.ignore_patterns("glmkit_*"))
    assert train(recipe, f"output={tmp_path / 'one'}", *slow, "--from", str(finished)) == 0
    assert len(read_json(tmp_path / "one" / "manifest.json")["settings"]["start_from"]) == 16
    finetune(recipe, output=tmp_path / "two", overrides=slow, start_from=peft, device="cpu")
    for output in (tmp_path / "one", tmp_path / "two"):
        assert distance(output, finished) < 1e-6


BAD_STARTS: dict[str, tuple[list[str], str]] = {
    "itself": (["output={run}"], "output=NEW_FOLDER"),
    "a weight": (["start_from={run}/adapter:0.5"], "as it is"),
    "another rank": ([f"{STAGE}.lora.rank=4"], f"{STAGE}.lora.rank=2 {STAGE}.lora.alpha=3"),
    "another scale": ([f"{STAGE}.lora.alpha=4"], f"{STAGE}.lora.alpha=3"),
    "other layers": ([f"{STAGE}.lora.targets=[o_proj]"], f"""'{STAGE}.lora.targets=["q_proj"]'"""),
    "a whole component": ([f"{STAGE}.lora=null"], "glmkit merge"),
    "another stage": (
        [f"{STAGE}=null", "decoder={steps: 1, global_batch_size: 2, learning_rate: 1, lora: {targets: [to_q]}}"],
        "adapts nothing",
    ),
    "nothing": (["start_from=none"], "does not exist"),
}


@pytest.mark.parametrize("kind", BAD_STARTS)
def test_what_no_run_can_begin_with(
    recipe: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    overrides, said = BAD_STARTS[kind]
    given = [
        f"output={tmp_path / 'new'}",
        f"start_from={run}",
        *(text.replace("{run}", str(run)) for text in overrides),
    ]
    before = sorted(run.rglob("*"))
    assert train(recipe, *given) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert sorted(run.rglob("*")) == before


def state(**changes: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        torch.save({**torch.load(path), **changes}, path)

    return spoil


def replaced(by: object) -> Callable[[Path], None]:
    return lambda path: torch.save(by, path)


BAD_STATES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "garbage": lambda path: path.write_bytes(b"garbage" * 100),
    "a folder": lambda path: path.rename(path.with_suffix(".x")) and path.mkdir(),  # type: ignore[func-returns-value]
    "a list": replaced([1]),
    "an object": replaced(Path("x")),
    "without weights": state(model={}),
    "weights of another shape": lambda path: state(
        model={name: value[:1] for name, value in torch.load(path)["model"].items()}
    )(path),
    "step is text": state(step="2"),
    "step is negative": state(step=-5),
    "seconds are text": state(seconds="x"),
    "no optimizers": state(optimizers=[]),
    "no averages": state(averaged=None),
}


@pytest.mark.parametrize("kind", BAD_STATES)
def test_a_state_of_something_else(recipe: Path, stopped: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    BAD_STATES[kind](stopped / f"{STAGE}.state.pt")
    assert train(recipe, f"output={stopped}") == 2
    assert "is not a state of this training" in (said := capsys.readouterr().err)
    assert "delete it" in said


BAD_FILES = {
    "result is a list": (f"{STAGE}.json", "[]", "is not the result of a stage"),
    "result is empty": (f"{STAGE}.json", "{}", "is not the result of a stage"),
    "result is broken": (f"{STAGE}.json", "{", "is not valid JSON"),
    "result without losses": (f"{STAGE}.json", None, "is not the result of a stage"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_result_of_something_else(recipe: Path, run: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    name, content, said = BAD_FILES[kind]
    whole = read_json(run / name)
    (run / name).write_text(json.dumps({**whole, "before": {}}) if content is None else content)
    assert train(recipe, f"output={run}") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "null", '{"train": {"images": 6}}', '{"train": "x"}'])
def test_what_a_run_began_with_is_gone(
    recipe: Path, stopped: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (stopped / "data.json").write_text(content)
    assert train(recipe, f"output={stopped}") == 2
    assert "data.json" in capsys.readouterr().err


def test_garbage_in_a_log_is_passed_over(recipe: Path, finished: Path, stopped: Path) -> None:
    log = stopped / f"{STAGE}.log.jsonl"
    append_jsonl(
        log, {"loss": 3.0}, {"step": "x", "loss": 1}, {"step": 1, "validation": [1]}, {"step": 1, "loss": None}
    )
    with log.open("ab") as handle:
        handle.write(b"garbage \xff\n[1]\n")
    assert train(recipe, f"output={stopped}") == 0
    assert distance(stopped, finished) == 0


def test_python_says_what_it_allows(recipe: Path, run: Path) -> None:
    with pytest.raises(UserError, match="steps was 4, now 5"):
        finetune(recipe, output=run, overrides={f"{STAGE}.steps": 5}, device="cpu")
    again = finetune(recipe, output=run, overrides={f"{STAGE}.steps": 5}, device="cpu", allow_changes=True)
    assert again.results[STAGE]["steps"] == 5
