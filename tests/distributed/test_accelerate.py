"""`accelerate launch` with the config files that `accelerate config` writes: they work, or are refused in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import free_port, launch, validation_losses

from glmkit.cli import main
from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.training.distributed import check_launcher

LAUNCH = "accelerate.commands.launch"
# As `accelerate config` writes them, but for the numbers of processes.
COMMON = {
    "compute_environment": "LOCAL_MACHINE",
    "debug": False,
    "downcast_bf16": "no",
    "enable_cpu_affinity": False,
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "bf16",
    "num_machines": 1,
    "num_processes": 2,
    "rdzv_backend": "static",
    "same_network": True,
    "tpu_env": [],
    "tpu_use_cluster": False,
    "tpu_use_sudo": False,
    "use_cpu": False,
}
MULTI_CPU = {**COMMON, "distributed_type": "MULTI_CPU", "use_cpu": True, "mixed_precision": "no"}
MULTI_GPU = {**COMMON, "distributed_type": "MULTI_GPU", "gpu_ids": "all"}
FSDP = {
    **COMMON,
    "distributed_type": "FSDP",
    "fsdp_config": {
        "fsdp_activation_checkpointing": False,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_cpu_ram_efficient_loading": True,
        "fsdp_offload_params": False,
        "fsdp_reshard_after_forward": True,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "fsdp_version": 2,
    },
}


def config_file(folder: Path, values: dict[str, Any], **changes: Any) -> str:
    """A config file, with a free port."""
    path = folder / f"{values['distributed_type']}-{changes.get('machine_rank', 0)}.yaml"
    path.write_text(yaml.safe_dump({**values, "main_process_port": int(free_port()), **changes}))
    return str(path)


@pytest.fixture
def command(tiny_model: Path, posters: Path, tmp_path: Path) -> list[str]:
    """A training of the whole AR model by two steps, without its output."""
    sets = {"train": str(posters / "train"), "validation": str(posters / "validation")}
    stage = {"steps": 2, "global_batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.01}
    recipe = {"model": str(tiny_model), "data": sets, "autoregressive": stage, "save_dtype": "float32", "output": "run"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return ["finetune", str(tmp_path / "recipe.yaml"), "--device", "cpu"]


@pytest.mark.thorough
@pytest.mark.parametrize("values", [MULTI_GPU, FSDP], ids=lambda values: str(values["distributed_type"]))
def test_two_processes_of_a_config_file(command: list[str], values: dict[str, Any], tmp_path: Path) -> None:
    assert main([*command, f"output={tmp_path / 'one'}"]) == 0
    launcher = [LAUNCH, "--config_file", config_file(tmp_path, values), "-m", "glmkit"]
    result = launch(*launcher, *command, f"output={tmp_path / 'two'}")
    assert result.returncode == 0, result.stderr
    assert ("weights in shards" in result.stderr) == (values is FSDP)
    assert validation_losses(tmp_path / "two") == pytest.approx(validation_losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.thorough
def test_two_machines_with_a_config_file_each(command: list[str], tmp_path: Path) -> None:
    assert main([*command, f"output={tmp_path / 'one'}"]) == 0
    machines = {"num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": int(free_port())}
    files = [config_file(tmp_path, MULTI_GPU, **machines, machine_rank=rank) for rank in range(2)]
    tail = ["-m", "glmkit", *command, f"output={tmp_path / 'two'}"]
    both = [subprocess.Popen([sys.executable, "-m", LAUNCH, "--config_file", file, *tail]) for file in files]
    try:
        assert [one.wait(200) for one in both] == [0, 0]
    finally:
        for one in both:
            one.kill()
    assert validation_losses(tmp_path / "two") == pytest.approx(validation_losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.thorough
def test_processes_that_only_mpirun_would_start(command: list[str], tmp_path: Path) -> None:
    result = launch(LAUNCH, "--config_file", config_file(tmp_path, MULTI_CPU), "-m", "glmkit", *command)
    assert "error: accelerate starts several processes on CPUs by mpirun alone" in result.stderr
    assert "torchrun --nproc-per-node 2" in result.stderr


def test_one_process_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert ProcessGroup.from_environment() == ProcessGroup()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match="num_processes: 1"):
        ProcessGroup.from_environment()


@pytest.mark.parametrize(
    ("name", "meant", "refused", "fix"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "false", "true", "MULTI_GPU"),
        ("ACCELERATE_USE_MEGATRON_LM", "false", "true", "fsdp_version: 2"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "false", "true", "parallelism_config"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "fp16", "mixed_precision: bf16"),
        ("ACCELERATE_MIXED_PRECISION", "no", "fp8", "mixed_precision: bf16"),
        ("ACCELERATE_DYNAMO_BACKEND", "NO", "INDUCTOR", "compile=true"),
    ],
)
def test_what_training_does_not_take(
    name: str, meant: str, refused: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, meant)
    check_launcher()
    monkeypatch.setenv(name, refused)
    with pytest.raises(UserError, match=f"(?s){refused}.*{fix}"):
        check_launcher()
