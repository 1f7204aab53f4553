"""Other systems than Linux: the commands run without POSIX and Triton, and files are treated as Windows allows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

HERE = Path(__file__).parent
START = """
import sys
from pathlib import Path
import like_windows
like_windows.hide_posix()
like_windows.want_encodings()
like_windows.keep_files_in_use(Path(sys.argv[1]))
from glmkit.models.checkpoint import weights
weights.MAPPED = False  # as on Windows
"""
COMMANDS = """
import importlib, json, pkgutil
import glmkit
from glmkit.cli import main
from glmkit.evaluation import plan
plan.DEFAULT_ENGINE = "blind_ocr"
commands, kernels = map(json.loads, sys.argv[2:])
for argv in commands:
    assert main(argv) == 0, argv
for found in pkgutil.walk_packages(glmkit.__path__, "glmkit."):
    if found.name not in ("glmkit.__main__", *kernels):
        importlib.import_module(found.name)
"""
BLIND_OCR = """
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.ocr.process import local_command
def identity(location): return EngineIdentity("blind")
def processes(cores): return 1
def command(location, threads, number): return local_command("blind_ocr", location, threads, number)
def load(location, threads, number): return lambda path, tokens: []
"""
CHINESE = "一张写着 'HI' 的海报 😀"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="files in use are read from /proc")


def python(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that is like one on Windows, whose output has no Chinese characters."""
    paths = os.pathsep.join((str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")))
    return subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", START + code, str(folder), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        encoding="cp1252",
        check=False,
    )


def kernel_files() -> list[Path]:
    """The files that are written in Triton, or import one that is."""
    files = {path: path.read_text(encoding="utf-8") for path in (HERE.parent / "glmkit").rglob("*.py")}
    needs_triton = re.compile(r"^(import triton|from [\w.]+ import (\w+, )*\w*kernels(, \w+)*)$", re.MULTILINE)
    return [path for path, text in files.items() if needs_triton.search(text)]


@ON_LINUX
def test_commands_run_without_posix_and_triton(tiny_model: Path, posters: Path, tmp_path: Path) -> None:
    """The commands on the toy model, in a folder with a Chinese name; then every module is imported but Triton's."""
    folder = tmp_path / "海报"
    folder.mkdir()
    (folder / "blind_ocr.py").write_text(BLIND_OCR, encoding="utf-8")
    Image.new("RGB", (64, 64), "red").save(folder / "in.png")
    (folder / "prompts.jsonl").write_text(json.dumps({"id": "一", "prompt": CHINESE}), encoding="utf-8")
    stage: dict[str, Any] = {"steps": 2, "global_batch_size": 2, "learning_rate": 0.01, "validation_every": 1}
    lora = {"rank": 2, "targets": ["to_q"]}
    recipes: dict[str, dict[str, Any]] = {
        "lora": {"decoder": {**stage, "lora": lora}},
        "whole": {"autoregressive": stage},
    }
    for name, stages in recipes.items():
        recipe = {
            "model": str(tiny_model),
            "output": f"run-{name}",
            "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
            **stages,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    model = ["--model", str(tiny_model), "--device", "cpu"]
    small = ["--size", "64x32", "--steps", "1"]
    suite = ["eval", "--suite", "text-render", "--split", "regions", "--limit", "1", *model, *small]
    commands = [
        ["finetune", "lora.yaml", "--device", "cpu"],
        ["finetune", "whole.yaml", "--device", "cpu"],
        ["generate", CHINESE, *model, *small, "--adapter", "run-lora/adapter:0.5", "--out", "一.png", "--json"],
        ["generate", "--prompts", "prompts.jsonl", *model, *small, "--out", "many"],
        ["edit", "in.png", CHINESE, *model, *small, "--out", "edited.png"],
        [*suite, "--run", "before"],
        [*suite, "--run", "after", "--adapter", "run-lora/adapter"],
        ["report", "before", "after", "--out", "page.html"],
    ]
    kernels = [".".join(path.relative_to(HERE.parent).with_suffix("").parts) for path in kernel_files()]
    result = python(folder, COMMANDS, json.dumps(commands), json.dumps(kernels))
    assert result.returncode == 0, result.stderr[-3000:]
    printed = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    assert printed["prompt"] == CHINESE, "what the encoding lacks is escaped as in JSON"
    assert {"一.png", "edited.png", "page.html"} <= {path.name for path in folder.iterdir()}
    assert (folder / "many" / "一.png").exists()
    assert b"\r" not in (folder / "before" / "manifest.json").read_bytes()
