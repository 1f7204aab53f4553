"""The wheel is the product: built from the sdist, installed into a fresh environment, every command runs from it."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
from pathlib import Path

import pytest

from glmkit import commands

ROOT = Path(__file__).parents[1]
CHANGES = "autoregressive=null decoder.steps=1 data.train=data/posters/validation samples.prompts=[] output=mine"
NONE = "none.json"  # a file that is not there, which is an error in one sentence
# In their order: the later ones read what the earlier ones wrote.
COMMANDS = (
    "generate --out a.png --steps 2 PROMPT",
    "edit a.png INSTRUCTION --out b.png --steps 1",
    "recipe copy edit_lora copied",
    "validate nano/edit_lora",
    f"finetune nano/poster_lora {CHANGES}",
    "pretrain recipes/nano/pretrain/decoder.yaml --dry-run",
    "export mine/adapter --format comfyui --out style.safetensors",
    "merge nano --adapter mine/adapter:0.5 --out merged",
    "info merged",
    "quantize merged --out packed",
    "list",
    "reference add posters --images data/posters/validation --features efficientnet-lite0",
    "eval --suite text-render --split simple --limit 2 --steps 1 --clip glmkit --reference posters --run before",
    "report before --out page.html",
    "eval --suite text-render --split simple --limit 2 --steps 1 --adapter mine/adapter --run after",
    "report before after --blind --out blind.html",
    f"votes {NONE}",  # a browser exports them
    f"reward --images before/images --prompts {NONE}",
    f"pairs --images before/images --prompts {NONE} --out chosen",
    "gate after --against before --metric word_accuracy --max-drop 1",
    "sweep --suite text-render --split simple --limit 1 --steps 1 --adapter mine --weights 0.5 1 --run swept",
    "bench speed --repeats 1 --steps 1 --compile off",
)
SERVE = "serve --port 0 --no-warm-up"
EVERY_COMMAND = """
import json, sys
from glmkit.cli import main
for argv in json.loads(sys.argv[1]):
    if main(argv) != (2 if "none.json" in argv else 0):
        sys.exit(f"glmkit {argv} failed")
"""
TEXTS = {"PROMPT": 'A blue poster with "HELLO" in large white letters at the top.', "INSTRUCTION": "Make it red."}


@pytest.fixture
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and of the present one all packages but glmkit."""
    folder = tmp_path_factory.mktemp("wheel")

    def run(*command: str | Path, cwd: Path = folder) -> None:
        subprocess.run([sys.executable, "-m", *map(str, command)], cwd=cwd, check=True)

    run("hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    run("hatchling", "build", "-t", "wheel", "-d", folder, cwd=folder / sdist.name.removesuffix(".tar.gz"))
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 60_000_000
    run("venv", "--without-pip", folder / "env")
    scheme = sysconfig.get_preferred_scheme("prefix") if os.name == "posix" else "nt"
    paths = sysconfig.get_paths(scheme, {"base": str(folder / "env"), "platbase": str(folder / "env")})
    run("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", paths["purelib"], wheel)
    # Paths in a file that is read like this are searched for packages, not for further .pth files: not for our clone.
    Path(paths["purelib"], "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return Path(paths["scripts"], "python")


def test_the_commands_are_all() -> None:
    assert {command.split()[0] for command in (*COMMANDS, SERVE)} == {
        one.name for one in pkgutil.iter_modules(commands.__path__)
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_runs_from_the_wheel(python: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    # One process for all: each start would import torch anew.
    argvs = [[TEXTS.get(word, word) for word in command.split()] for command in COMMANDS]
    for line in (["-m", "glmkit"], ["-c", EVERY_COMMAND, json.dumps(argvs)]):
        shown = subprocess.run(
            [str(python), "-P", *line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr
        assert "Traceback" not in shown.stderr
        assert str(ROOT) not in shown.stdout + shown.stderr
    with subprocess.Popen(
        [str(python), "-P", "-m", "glmkit", *SERVE.split()],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{address}/", timeout=120) as page:
                assert b"<title>GLM-Image</title>" in page.read()
        finally:
            server.terminate()
