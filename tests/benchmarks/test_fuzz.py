"""Readers of what people bring take or refuse whatever is in a file; and what tries the commands sees how they end."""

from __future__ import annotations

import json
import os
import pkgutil
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import load_script
from tiny_adapter import make_adapter

from glmkit import commands, config
from glmkit.errors import UserError
from glmkit.inputs.prompts import read_prompts
from glmkit.models.checkpoint import adapters
from glmkit.reporting.load import load_run
from glmkit.training.data import FileDataset

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
fuzz_cases = load_script("fuzz_cases")
fuzz = load_script("fuzz")
fuzz_child = load_script("fuzz_child")
fuzz_http = load_script("fuzz_http")
fuzz_scenarios = load_script("fuzz_scenarios")
CASES = 60  # of each file
RECIPE = {
    "model": "nano",
    "output": "run",
    "data": {"train": ["a"], "validation": "b", "size": "64x64"},
    "decoder": {"lora": {"rank": 2, "targets": ["to_q"]}, "steps": 1, "global_batch_size": 1, "learning_rate": 1e-3},
    "samples": {"prompts": ["a"], "size": "64x64"},
}
SCORE = {"id": "a_0", "prompt_id": "a", "seed": 0, "split": "s", "language": "en", "expected": ["OPEN"]}
RUN: dict[str, Any] = {
    "images.jsonl": {"id": "a_0", "prompt_id": "a", "prompt": "OPEN", "seed": 0, "file": None, "error": "none"},
    "scores.jsonl": {**SCORE, "recognized_lines": [], "counts": {}, "error": "none"},
    "manifest.json": {"kind": "eval", "settings": {"suite": "text-render"}, "started": "2026", "resumed": []},
    "summary.json": {"suite": "text-render", "model": "nano", "n_scored": 0, "n_total": 1, "metrics": {}, "scores": {}},
}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, posters: Path) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "prompts.jsonl").write_text(json.dumps({"id": "a", "prompt": "OPEN", "seed": 1, "size": "64x64"}) + "\n")
    shutil.copytree(posters / "validation", folder / "set")
    make_adapter(tiny_model, folder / "adapter", "decoder")
    (folder / "run").mkdir()
    for name, content in RUN.items():
        (folder / "run" / name).write_text(json.dumps(content) + "\n")
    return folder


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("recipe.yaml", config.load),
        ("prompts.jsonl", read_prompts),
        ("set/metadata.jsonl", lambda path: FileDataset(path.parent)),
        ("set/0.png", lambda path: FileDataset(path.parent)),
        *((f"run/{name}", lambda path: load_run(path.parent)) for name in RUN),
        *((f"adapter/decoder/{name}", None) for name in ("adapter_config.json", "adapter_model.safetensors")),
    ],
)
def test_a_reader_takes_or_refuses_whatever_a_file_holds(
    file: str, read: Callable[[Path], object] | None, files: Path, tiny_model: Path, tmp_path: Path
) -> None:
    ways = [way for kind in fuzz_cases.mutations(files / file).values() for way in kind.items()]
    rng = random.Random(file)
    path, failed = tmp_path / "files" / file, []
    for name, way in rng.sample(ways, min(CASES, len(ways))):
        shutil.rmtree(tmp_path / "files", ignore_errors=True)
        fuzz_cases.copy_lab(files, tmp_path / "files")
        here = Path.cwd()
        way(path, random.Random(name))
        os.chdir(here)
        try:
            if read is None:
                adapters.check_adapter(tiny_model, path.parents[1])
            else:
                read(path)
        except UserError:
            continue
        except Exception as error:  # all of them at once, rather than the first
            failed.append(f"{name}: {error!r}")
    assert not failed


def _hang() -> int:
    time.sleep(60)
    return 0


def _leave_a_process() -> int:
    if os.fork() == 0:
        time.sleep(60)
    return 0


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: 0, (0, None)),
        (lambda: 1 // 0, (70, None)),
        (lambda: os.kill(os.getpid(), 11), (-11, "signal SIGSEGV")),
        (lambda: len(os.read(0, 1)) - 1, (0, "asks on the terminal")),
        (_hang, (-9, "hang")),
        (_leave_a_process, (0, "orphan")),
    ],
    ids=["done", "exception", "signal", "question", "hang", "orphan"],
)
def test_how_a_command_ends_is_seen(
    work: Callable[[], int], expected: tuple[int, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_child, "IDLE_SECONDS", 1)
    (tmp_path / "lab").mkdir()
    assert fuzz_child.run_child(work, tmp_path / "lab", {}) == expected


def test_a_changed_input_is_seen(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("a")
    before = fuzz._snapshot(tmp_path)
    (tmp_path / "in" / "b").touch()
    case = fuzz_cases.Case(fuzz_cases.Scenario("recipes", "validate", ("validate",)), "x")
    assert fuzz._outside(before, tmp_path, case) == "outside: in/b"


@pytest.mark.parametrize(("output", "seen"), [("²", None), ("out", "outside: ²")])
def test_a_recipe_says_where_its_output_is(output: str, seen: str | None, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"output": output}))
    before = fuzz._snapshot(tmp_path)
    (tmp_path / "²").mkdir()
    scenario = fuzz_cases.Scenario("recipes", "finetune", ("finetune", "recipe.yaml"))
    case = fuzz_cases.Case(scenario, "recipe.yaml: output", target="recipe.yaml")
    assert fuzz._outside(before, tmp_path, case) == seen


@pytest.mark.parametrize(("target", "seen"), [("in/adapter", None), ("in/request.json", "message")])
def test_only_a_broken_server_may_fail(target: str, seen: str | None, tmp_path: Path) -> None:
    scenario = fuzz_cases.Scenario("servers", "adapter", ("serve",), request="in/request.json")
    case = fuzz_cases.Case(scenario, "flipped bits", target=target)
    assert fuzz.judge(case, tmp_path, tmp_path, 1, "error: not finite\n  try: other weights") == seen


def test_every_command_is_tried() -> None:
    tried = {one.argv[0] for one in fuzz_scenarios.SCENARIOS}
    assert tried == {one.name for one in pkgutil.iter_modules(commands.__path__)}


@pytest.mark.parametrize(("more", "code"), [({}, 0), ({"n": "many"}, 2)], ids=["answer", "refusal"])
def test_a_server_is_asked_and_stopped(
    more: dict[str, Any], code: int, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = tmp_path / "lab"
    (lab / "out").mkdir(parents=True)
    fields = {"prompt": "OPEN", "size": "64x64", "num_inference_steps": 1, **more}
    (lab / "request.json").write_text(json.dumps(fields))
    argv = ["serve", "--model", str(tiny_model), "--port", "0", "--no-warm-up", "--device", "cpu"]
    with capsys.disabled():  # the child prints into files
        ended = fuzz_child.run_child(
            lambda: fuzz_http.serve_and_ask(argv, "request.json", tmp_path / "lab.out"), lab, {}
        )
    assert ended == (code, None)
