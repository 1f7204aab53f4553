"""`make demo` and `make test` do what is missing, and only that."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = (  # what a step types, and the file that says it is done
    ("pip install", ".venv/.ready"),
    ("glmkit reference add", "reports/demo/cache/.posters"),
    ("--run reports/demo/before", "reports/demo/before/summary.json"),
    ("glmkit finetune", "reports/demo/poster_lora/.done"),
    ("glmkit sweep", "reports/demo/sweep/recommended.txt"),
    ("$(cat reports/demo/sweep/recommended.txt) --name after", "reports/demo/after/summary.json"),
    ("glmkit report", "reports/demo/index.html"),
)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "recipes/nano/poster_lora.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (time.time() - 60, time.time() - 60))
    return tmp_path


def planned(folder: Path, target: str) -> str:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", target]
    result = subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True, check=True)
    return result.stdout


def finish(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_the_demo_goes_on_where_it_stopped(fresh: Path) -> None:
    for done in range(len(STEPS)):
        plan = planned(fresh, "demo")
        assert [typed in plan for typed, _ in STEPS] == [step >= done for step in range(len(STEPS))]
        finish(fresh, STEPS[done][1])
    assert "glmkit" not in planned(fresh, "demo").replace(str(fresh), "")


def test_another_nano_or_recipe_begins_anew(fresh: Path) -> None:
    """What was finished with it goes first: a run folder takes no other model. What was only begun stays."""
    weights = fresh / "data" / "nano" / "vae" / "model.safetensors"
    finish(fresh, str(weights.relative_to(fresh)))
    for _, name in STEPS:
        finish(fresh, name)
    assert "glmkit" not in planned(fresh, "demo").replace(str(fresh), "")
    later = time.time() + 60
    os.utime(weights, (later, later))
    plan = planned(fresh, "demo")
    for folder, name in (("before", "summary.json"), ("poster_lora", ".done"), ("sweep", "recommended.txt")):
        done = f"reports/demo/{folder}/{name}"
        assert f"test ! -e {done} || rm -rf reports/demo/{folder}\n" in plan
    os.utime(weights, (1, 1))
    os.utime(fresh / "recipes" / "nano" / "poster_lora.yaml", (later, later))
    plan = planned(fresh, "demo")
    assert "glmkit finetune" in plan
    assert "--run reports/demo/after" in plan
    assert "--run reports/demo/before" not in plan


def test_only_changed_dependencies_are_installed_again(fresh: Path) -> None:
    finish(fresh, ".venv/.ready")
    assert "pip install" not in planned(fresh, "test")
    later = time.time() + 60
    os.utime(fresh / "constraints.txt", (later, later))
    plan = planned(fresh, "test")
    assert "pip install" in plan
    assert "pytest" in plan
    assert "ruff check" in plan
    assert "mypy" in plan


def test_continuous_integration_calls_make_test() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
