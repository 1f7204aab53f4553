"""The Slurm script of the guide trains on two nodes what one process does; srun and scontrol are stand-ins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documents import ROOT, code_blocks
from processes import free_port, validation_losses

from glmkit.cli import main

SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames 127.0.0.[1-2]" ] && printf '127.0.0.1\\n127.0.0.2\\n'
"""
# One task per node, each in a home of its own.
SRUN = """#!/bin/bash
for node in 0 1; do
  mkdir -p "$HOME/$node"
  HOME="$HOME/$node" SLURM_NODEID=$node SLURM_PROCID=$node SLURM_LOCALID=0 "$@" & tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""


@pytest.mark.thorough
def test_the_script_of_the_guide(tiny_model: Path, posters: Path, tmp_path: Path) -> None:
    sets = {"train": str(posters / "train"), "validation": str(posters / "validation")}
    lora = {"rank": 2, "targets": ["q_proj"]}
    stage = {"steps": 2, "global_batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.01, "lora": lora}
    recipe = {"model": str(tiny_model), "data": sets, "autoregressive": stage, "output": "run"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["finetune", str(tmp_path / "recipe.yaml"), "--device", "cpu"]
    assert main([*command, f"output={tmp_path / 'one'}"]) == 0

    (script,) = code_blocks("recipes/README.md", "sh")
    (tmp_path / "glmkit.sbatch").write_text(script)
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "127.0.0.[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    slurm["SLURM_JOB_ID"] = str((int(free_port()) - 20000) % 20000)
    path = os.pathsep.join((str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]))
    own = {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        ["bash", str(tmp_path / "glmkit.sbatch"), *command, f"output={tmp_path / 'two'}"],
        env={**os.environ, **slurm, **own},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    one, two = (validation_losses(tmp_path / name) for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5)
    assert result.stdout.count("autoregressive: 2 steps") == 1
