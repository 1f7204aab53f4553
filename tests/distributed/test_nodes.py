"""Two machines, with homes and caches of their own and one output folder, do what one does. When one dies, the other
ends or goes on, and the same command ends in the same files."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import end_nodes, start_nodes
from safetensors.torch import load_file
from tiny_adapter import make_adapter

from glmkit.cli import main
from glmkit.evaluation import plan
from glmkit.files import read_jsonl

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200)]
PROMPTS = [{"prompt": f"a sign '{text}'", "texts": [text], "size": "64x32"} for text in ("Red Fox", "Owl", "Hare")]


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    return str(path)


def nodes(tmp_path: Path, *command: object) -> tuple[list[int], str]:
    return end_nodes(tmp_path, start_nodes(tmp_path, *command))


def test_generate(tiny_model: Path, prompts: str, tmp_path: Path) -> None:
    command = ["generate", "--prompts", prompts, "--model", str(tiny_model), "--steps", "1", "--device", "cpu", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    codes, said = nodes(tmp_path, *command, tmp_path / "two")
    assert codes == [0, 0], said
    for path in (tmp_path / "one").glob("*.png"):
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
    assert [row["error"] for row in read_jsonl(tmp_path / "two" / "images.jsonl")] == [None] * 3
    # A relative path is another folder on each.
    codes, said = nodes(tmp_path, *command, "images")
    assert 0 not in codes, said
    assert said.count("the processes do not share the folder images") == 1
    assert not list(tmp_path.glob("node*/images/*"))


def evaluation(command: str, model: Path, prompts: str, tmp_path: Path) -> list[str]:
    """A command that scores images of three prompts, without its run folder."""
    argv = [command, "--prompts", prompts, "--model", str(model), "--steps", "1", "--device", "cpu"]
    if command == "sweep":
        make_adapter(model, tmp_path / "adapter", "decoder")
        argv += ["--adapter", str(tmp_path / "adapter"), "--weights", "0", "1"]
    return [*argv, "--run"]


@pytest.mark.parametrize("command", ["eval", "sweep"])
def test_evaluations(
    command: str, tiny_model: Path, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "DEFAULT_ENGINE", "pixel_ocr")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    argv = evaluation(command, tiny_model, prompts, tmp_path)
    assert main([*argv, str(tmp_path / "one")]) == 0
    codes, said = nodes(tmp_path, *argv, tmp_path / "two")
    assert codes == [0, 0], said
    assert said.count("run folder: " if command == "eval" else "page: ") == 1
    assert_same_scores(tmp_path)


def assert_same_scores(tmp_path: Path) -> None:
    """Every file of scores of the run `one` is there in `two`, with the same content."""
    found = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("s*.json*")]
    assert {path.name for path in found} >= {"scores.jsonl", "summary.json"}
    for path in found:
        assert (tmp_path / "two" / path).read_bytes() == (tmp_path / "one" / path).read_bytes()


def recipe(command: str, model: Path, posters: Path, prompts: str) -> dict[str, Any]:
    """A recipe of two or three steps."""
    sets = {"train": str(posters / "train"), "validation": str(posters / "validation")}
    lora = {"rank": 2, "targets": ["q_proj", "down_proj"]}
    stage: dict[str, Any] = {"steps": 3, "global_batch_size": 4, "micro_batch_size": 2, "save_every": 1}
    stage["learning_rate"] = 0.01
    if command == "rl":
        rewards = {"weights": {"text": 1, "content": 0.3}}
        stage |= {"rl": {"rewards": rewards, "group_size": 2, "denoising_steps": 1}, "steps": 2}
        sets = {"prompts": prompts, "validation": prompts}
    about = {"model": str(model), "data": sets, "save_dtype": "float32", "output": "run"}
    return about | ({"decoder": stage} if command == "pretrain" else {"autoregressive": {**stage, "lora": lora}})


def written(command: str, *given: Any) -> list[str]:
    """The command of a recipe, without its output."""
    path = Path(given[-1]).with_name("recipe.yaml")
    path.write_text(yaml.safe_dump(recipe(command, *given)))
    return ["pretrain" if command == "pretrain" else "finetune", str(path), "--device", "cpu"]


def assert_same_weights(tmp_path: Path) -> None:
    """What the run `one` has learnt, `two` has learnt, but for rounding."""
    one, two = (
        next(file for folder in ("autoregressive", "transformer") for file in run.rglob(f"{folder}/*.safetensors"))
        for run in (tmp_path / "one", tmp_path / "two")
    )
    expected, found = load_file(one), load_file(two)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).square().mean().sqrt().item() < 1e-5


@pytest.mark.parametrize("command", ["finetune", "rl", "pretrain"])
def test_trainings(command: str, tiny_model: Path, posters: Path, prompts: str, tmp_path: Path) -> None:
    argv = written(command, tiny_model, posters, prompts)
    assert main([*argv, f"output={tmp_path / 'one'}"]) == 0
    codes, said = nodes(tmp_path, *argv, f"output={tmp_path / 'two'}")
    assert codes == [0, 0], said
    assert_same_weights(tmp_path)
    if command == "finetune":
        codes, said = nodes(tmp_path, *argv)
        assert 0 not in codes, said
        assert said.count("the processes do not share the folder run") == 1
        assert not list(tmp_path.glob("node*/run/*"))


@pytest.mark.parametrize("number", [0, 1])
def test_a_node_dies_in_training(number: int, tiny_model: Path, posters: Path, prompts: str, tmp_path: Path) -> None:
    """The first one takes the store with it through which the others would learn who has failed."""
    argv = written("finetune", tiny_model, posters, prompts)
    assert main([*argv, f"output={tmp_path / 'one'}"]) == 0
    argv.append(f"output={tmp_path / 'two'}")
    agents = start_nodes(tmp_path, *argv, dies={number: {"DIES_IN": "autoregressive:2"}})
    codes, said = end_nodes(tmp_path, agents)
    assert codes[number] == -signal.SIGKILL
    assert codes[1 - number] not in (0, -signal.SIGKILL)
    assert said.count("error: another process of this command has ended or does not answer") == 1
    assert "run the same command again to continue" in said
    assert (tmp_path / "two" / "autoregressive.state.pt").exists()
    codes, said = nodes(tmp_path, *argv)
    assert codes == [0, 0], said
    assert "continuing at step" in said
    assert_same_weights(tmp_path)


def test_a_node_dies_in_an_evaluation(
    tiny_model: Path, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one does its work; torchrun then waits five minutes for the one that is gone."""
    monkeypatch.setattr(plan, "DEFAULT_ENGINE", "pixel_ocr")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    argv = evaluation("eval", tiny_model, prompts, tmp_path)
    assert main([*argv, str(tmp_path / "one")]) == 0
    argv.append(str(tmp_path / "two"))
    agents = start_nodes(tmp_path, *argv, dies={1: {"DIES_AT": "3"}})
    assert agents[1].wait(300) == -signal.SIGKILL
    end = time.monotonic() + 300
    while not (tmp_path / "two" / "summary.json").exists() and time.monotonic() < end:
        time.sleep(0.2)
    agents[0].kill()
    assert_same_scores(tmp_path)
    codes, said = nodes(tmp_path, *argv)
    assert codes == [0, 0], said
    assert_same_scores(tmp_path)
