"""Broken inputs of every command end with code 2, one sentence and what to type; nothing is lost or left behind."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from scripts import load_script
from tiny_adapter import make_adapter

from glmkit.cli import main

fuzz_cases = load_script("fuzz_cases")

RECIPE = {
    "model": "in/model",
    "output": "out/run",
    "data": {"train": "in/set", "validation": "in/set"},
    "decoder": {
        "lora": {"rank": 2, "targets": ["to_q"]},
        "steps": 1,
        "global_batch_size": 1,
        "learning_rate": 1e-3,
    },
}
PRETRAINING = {**RECIPE, "save": "out/model", "data": {"posters": {"count": 2, "size": "64x64", "seed": 1}}}
SMALL = "--size 64x64 --steps 1 --device cpu"
COMMANDS = {
    "generate": f"generate OPEN --model in/model --adapter in/adapter --out out/a.png {SMALL}",
    "prompts": f"generate --prompts in/prompts.jsonl --model in/model --out out {SMALL}",
    "edit": f"edit in/image.png Red. --model in/model --out out/a.png {SMALL}",
    "finetune": "finetune in/recipe.yaml --device cpu",
    "validate": "validate in/recipe.yaml --device cpu",
    "pretrain": "pretrain in/pretrain.yaml --device cpu",
    "bench": "bench train --recipe in/recipe.yaml --steps 1 --device cpu",
    "eval": "eval --suite cvtg-2k --data in/cvtg --images in/images --run out/run --device cpu",
    "sweep": "sweep --suite cvtg-2k --data in/cvtg --model in/model --adapter in/adapter --run out/run --device cpu",
    "report": "report in/run --out out/a.html",
    "gate": "gate in/run --against in/run",
    "votes": "votes in/prompts.jsonl",
    "reward": "reward --images in/images --prompts in/prompts.jsonl --base in/images --reward content=1",
    "pairs": "pairs --votes in/prompts.jsonl --runs in/run --out out/pairs",
    "serve": "serve --model in/model --adapter poster=in/adapter --device cpu --port 0 --no-warm-up",
    "reference": "reference add new --images in/images --prompts in/shown.jsonl --features efficientnet-lite0",
    "quantize": "quantize in/model --out out/quantized",
    "merge": "merge in/model --adapter in/adapter --out out/merged",
    "export": "export in/adapter --format comfyui --out out/a.safetensors",
    "recipe": "recipe copy in/recipe.yaml out/copy",
    "info": "info in/model",
}
CONFIG, WEIGHTS = "in/adapter/decoder/adapter_config.json", "in/adapter/decoder/adapter_model.safetensors"
CARD, DECODER = "in/adapter/decoder/glmkit_adapter.json", "in/model/transformer/config.json"
DECODER_WEIGHTS = "in/model/transformer/diffusion_pytorch_model.safetensors"
TEXT = ("garbage", "deep lists", "many digits", "a FIFO", "64 GiB", "a link to /dev/zero")
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "generate": {
        CONFIG: ("cut", "a list", "null"),
        WEIGHTS: ("all renamed", "one missing", "no tensors", "unknown dtype", "overlap", "NaN", "cut", "a FIFO"),
        CARD: ("a number", "a folder"),
        DECODER: ("cut", "null", "missing"),
        "in/model/glmkit.json": ("a list", "cut"),
    },
    "prompts": {"in/prompts.jsonl": (*TEXT, "missing", "a folder", "a link to itself", "empty")},
    "edit": {"in/image.png": ("EPS", "SVG", "a great bomb", "cut", "a FIFO", "a socket", "a link to nothing", "0x0")},
    "finetune": {"in/recipe.yaml": (*TEXT, "null"), "in/set/0.png": ("EPS", "a FIFO")},
    "validate": {"in/recipe.yaml": ("empty", "NUL"), "in/set/metadata.jsonl": TEXT},
    "pretrain": {"in/pretrain.yaml": ("a list", "missing", "one long line")},
    "bench": {"in/recipe.yaml": ("a number", "deep maps")},
    "eval": {"in/cvtg/CVTG/2.json": ("a number", "deep lists", "a FIFO", "cut"), "in/cvtg/CVTG/3.json": ("null",)},
    "sweep": {WEIGHTS: ("cut", "one missing"), CONFIG: ("null",), "in/cvtg/CVTG/4.json": ("deep lists",)},
    "gate": {"in/run/scores.jsonl": ("garbage", "a FIFO"), "in/run/manifest.json": ("a list",)},
    "report": {
        "in/run/summary.json": ("null", "a list", "cut", "deep maps", "many digits", "a FIFO", "missing"),
        "in/run/manifest.json": ("null", "a number", "a folder"),
        "in/run/images.jsonl": ("garbage", "a number", "a link to itself"),
        "in/run/scores.jsonl": ("deep lists", "64 GiB"),
    },
    "votes": {"in/prompts.jsonl": ("garbage", "a number", "a FIFO")},
    "reward": {"in/prompts.jsonl": ("deep lists", "a FIFO", "missing")},
    "pairs": {"in/prompts.jsonl": ("garbage", "64 GiB")},
    "serve": {WEIGHTS: ("all renamed", "cut"), CARD: ("a number",), DECODER: ("null",)},
    "reference": {"in/shown.jsonl": ("garbage", "deep lists", "a FIFO", "a folder", "64 GiB")},
    "quantize": {
        DECODER_WEIGHTS: ("all renamed", "one missing", "NaN", "cut"),
        DECODER: ("null",),
        "in/model/glmkit.json": ("a list", "null"),
    },
    "merge": {
        WEIGHTS: ("all renamed", "no tensors", "negative offsets"),
        CONFIG: ("missing",),
        DECODER: ("a list",),
        "in/model/glmkit.json": ("a list",),
    },
    "export": {WEIGHTS: ("far offsets", "deep header", "inf", "one missing"), CONFIG: ("deep maps", "a number")},
    "recipe": {"in/recipe.yaml": ("missing", "deep lists")},
    "info": {"in/model/vae/diffusion_pytorch_model.safetensors": ("cut", "a FIFO", "deep header")},
}
CASES = [(name, file, way) for name, files in FILES.items() for file, ways in files.items() for way in ways]
WORDS = [
    ("generate", "--size ²56x256"),
    ("generate", "--size 320000x320000"),
    ("generate", "--guidance nan"),
    ("generate", "--seed 99999999999999999999"),
    ("generate", "--adapter " + "a" * 300),
    ("generate", "--device meta"),
    ("validate", "decoder.steps=" + "9" * 5000),
    ("validate", "seed=-1"),
    ("validate", "=5"),
    ("report", "--out out/a.txt"),
    ("sweep", "--weights nan"),
    ("sweep", "--checkpoints 7"),
    ("gate", "--max-drop nan"),
    ("reward", "--reward content=nan"),
    ("reward", "--base in/nowhere"),
    ("pairs", "--name a --name a"),
    ("serve", "--adapter in/adapter"),
    ("serve", "--adapter poster=in/adapter"),
    ("serve", "--host 0.0.0.0"),
    ("serve", "--port 99999"),
    ("serve", "--queue 0"),
    ("merge", "--adapter in/adapter:nan"),
    ("info", "--jsn"),
    *((name, "--out ") for name in ("generate", "prompts", "edit", "report", "export", "merge", "quantize", "pairs")),
    ("export", "--out /"),
]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, posters: Path) -> Path:
    """What the commands read, whole; each test breaks a copy."""
    folder = tmp_path_factory.mktemp("malformed") / "in"
    shutil.copytree(tiny_model, folder / "model")
    make_adapter(tiny_model, folder / "adapter", "decoder")
    shutil.copytree(posters / "validation", folder / "set")
    shutil.copytree(folder / "set", folder / "images")
    shutil.copy(folder / "set" / "0.png", folder / "image.png")
    (folder / "model" / "glmkit.json").write_text('{"defaults": {"steps": 1}}')
    (folder / "prompts.jsonl").write_text(json.dumps({"id": "a", "prompt": "OPEN"}) + "\n")
    (folder / "shown.jsonl").write_text(json.dumps({"file_name": "0.png", "prompt": "OPEN"}) + "\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAINING))
    for part in ("CVTG", "CVTG-Style"):
        for area in (2, 3, 4, 5):
            path = folder / "cvtg" / part / f"{area}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"data_list": [{"index": 0, "prompt": "a sign 'Fox'"}]}))
    _write_run(folder / "run")
    return folder


def _write_run(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64), "teal").save(folder / "images" / "a_0.png")
    image = {"id": "a_0", "prompt_id": "a", "prompt": "OPEN", "seed": 0, "file": "images/a_0.png", "error": None}
    (folder / "images.jsonl").write_text(json.dumps(image) + "\n")
    score = {"id": "a_0", "prompt_id": "a", "seed": 0, "split": "s", "language": "en", "expected": ["OPEN"]}
    score |= {"recognized_lines": ["OPEN"], "counts": {"ned": [1.0, 1]}, "error": None}
    (folder / "scores.jsonl").write_text(json.dumps(score) + "\n")
    (folder / "summary.json").write_text("{}")
    (folder / "manifest.json").write_text("{}")


def _contents(folder: Path) -> dict[str, tuple[int, int, int]]:
    paths = sorted(Path(root, name) for root, folders, files in os.walk(folder) for name in folders + files)
    return {str(path): (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_ino) for path in paths}


def _is_refused(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = _contents(tmp_path)
    try:
        code = main(command)
    except SystemExit as stop:
        code = int(stop.code or 0)
    shown = capsys.readouterr().err
    errors = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1), shown[-1500:]
    assert "\n  try: " in shown, f"it must say what to type: {shown[-1500:]}"
    assert max(map(len, shown.splitlines())) < 1000
    assert {name: about for name, about in _contents(tmp_path).items() if name in before} == before
    kept = {"out", "cache"}  # of which a refused command may have made the folder
    new = {Path(name).relative_to(tmp_path).parts[0] for name in _contents(tmp_path)}
    assert new <= kept | {"in"}
    return shown


@pytest.fixture
def lab(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """A folder with a copy of the inputs, in which the command runs."""

    def make() -> Path:
        fuzz_cases.copy_lab(inputs, tmp_path / "in")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize(("name", "file", "way"), CASES, ids=lambda value: Path(str(value)).name)
def test_a_broken_file_is_refused(
    name: str, file: str, way: str, lab: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab()
    every = {**fuzz_cases.ANY_FILE, **fuzz_cases.TEXT, **fuzz_cases.WEIGHTS, **fuzz_cases.IMAGES}
    every[way](Path(file).absolute(), random.Random(0))
    os.chdir(tmp_path)
    _is_refused(COMMANDS[name].split(), tmp_path, capsys)


@pytest.mark.parametrize(("name", "words"), WORDS, ids=lambda value: str(value)[:30])
def test_broken_words_are_refused(
    name: str, words: str, lab: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab()
    _is_refused([*COMMANDS[name].split(), *words.split(" ")], tmp_path, capsys)


@pytest.mark.parametrize("name", ["eval", "finetune", "reference"])
def test_a_cache_that_is_no_folder_is_refused(
    name: str,
    lab: Callable[[], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GLMKIT_CACHE", str(lab() / "in" / "image.png"))
    assert "GLMKIT_CACHE=FOLDER" in _is_refused(COMMANDS[name].split(), tmp_path, capsys)


def test_there_are_a_hundred() -> None:
    assert len(CASES) + len(WORDS) >= 100
    assert {COMMANDS[name].split()[0] for name in COMMANDS} | {"list"} == set(_commands())


def _commands() -> list[str]:
    import pkgutil

    from glmkit import commands

    return [one.name for one in pkgutil.iter_modules(commands.__path__)]
