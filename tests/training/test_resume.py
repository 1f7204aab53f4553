"""A run that is killed by SIGKILL, whenever that is, ends with the files of one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from glmkit.cli import main

DYING = Path(__file__).with_name("dying.py")


def killed(where: str, *command: str) -> None:
    result = subprocess.run(
        [sys.executable, str(DYING), where, *command], check=False, capture_output=True, timeout=300
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()


@pytest.fixture(scope="module")
def whole(tiny_model: Path, posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed: an adapter, then a whole part without saved states; its recipe."""
    folder = tmp_path_factory.mktemp("whole")
    common = {"global_batch_size": 2, "learning_rate": 0.01, "ema": 0.5, "validation_every": 2}
    recipe = {
        "model": str(tiny_model),
        "output": str(folder / "run"),
        "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
        "autoregressive": {
            **common,
            "steps": 6,
            "save_every": 2,
            "lora": {"rank": 2, "dropout": 0.2, "targets": ["q_proj"]},
        },
        "decoder": {**common, "steps": 3, "train_glyph": True},
        "save_dtype": "float32",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:  # features computed under other conditions may round otherwise
        patch.setenv("GLMKIT_CACHE", str(folder / "cache"))
        assert main(["finetune", str(folder / "recipe.yaml"), "--device", "cpu"]) == 0
    return folder


def contents(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_killed_in_every_way(whole: Path, tmp_path: Path) -> None:
    """In a step; then with the trained weights of a whole part in place, without a state asked for, before its result
    is written. Each time continued with another room for features.
    """
    run = tmp_path / "run"
    command = ["finetune", "--device", "cpu", str(whole / "recipe.yaml"), f"output={run}"]
    killed("5", *command)
    assert (run / "autoregressive.state.pt").exists()
    assert not (run / "autoregressive.json").exists()
    (run / ".autoregressive.state.123.tmp.pt").touch()
    (run / "adapter" / ".autoregressive.123.tmp").mkdir()
    killed("result", *command, "data.gpu_cache_gib=2")
    assert (run / "autoregressive.json").exists()
    assert not (run / "decoder.json").exists()
    assert main([*command, "data.gpu_cache_gib=3"]) == 0
    ours, theirs = contents(run), contents(whole / "run")
    assert sorted(ours) == sorted(theirs)
    assert not [name for name in ours if name.endswith(".safetensors") and ours[name] != theirs[name]]
