"""Processes of two machines: torchrun's agents with homes and caches of their own, on one disk or on two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from processes import fork_two, free_port
from safetensors.torch import load_file

from glmkit.cli import main
from glmkit.distributed import shared_folder
from glmkit.distributed.together import together
from glmkit.errors import UserError
from glmkit.files import read_jsonl

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shared", [pytest.param(True, marks=pytest.mark.thorough), False])
def test_a_folder_that_the_second_process_does_not_see(tmp_path: Path, shared: bool) -> None:
    def check(rank: int) -> int:
        shared_folder.SECONDS = 0.5
        folder = tmp_path / ("disk" if shared else f"disk-{rank}")
        try:
            with together(torch.device("cpu")) as group:
                shared_folder.check_shared(folder, group)
        except UserError as error:
            print(error)
            return 2
        return 0

    codes, said = fork_two(check, tmp_path)
    assert codes == ([0, 0] if shared else [2, 2]), said
    both = "".join(said)
    assert both.count("the processes do not share the folder") == (0 if shared else 1)
    assert "rank 1 on " in both or shared
    assert not list(tmp_path.glob("disk*/.*"))


# The command line, which gives up after a second.
PROGRAM = """
import sys
from glmkit.distributed import shared_folder
shared_folder.SECONDS = 1.0
from glmkit.cli import main
sys.exit(main(sys.argv[1:]))
"""


def nodes(tmp_path: Path, *command: str) -> tuple[list[int], str]:
    """Run a command of glmkit in two agents, each with a home and a working folder; returns codes and all messages."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", free_port()]
    agents = []
    for rank in range(2):
        home = tmp_path / f"node{rank}"
        home.mkdir(exist_ok=True)
        own = {name: value for name, value in os.environ.items() if name not in ("GLMKIT_CACHE", "XDG_CACHE_HOME")}
        own |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        argv = [*launcher, "--node_rank", str(rank), str(program), *command]
        agents.append(subprocess.Popen(argv, cwd=home, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        said = [agent.communicate(timeout=300)[0].decode() for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    return [agent.returncode for agent in agents], "".join(said)


@pytest.mark.thorough
def test_two_nodes_generate_what_one_does(tiny_model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red sign\na blue sign\na green sign\n")
    command = ["generate", "--prompts", str(prompts), "--model", str(tiny_model), "--size", "64x32", "--steps", "1"]
    command += ["--device", "cpu", "--compile", "off", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    codes, said = nodes(tmp_path, *command, str(tmp_path / "two"))
    assert codes == [0, 0], said
    for path in (tmp_path / "one").glob("*.png"):
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
    assert [row["error"] for row in read_jsonl(tmp_path / "two" / "images.jsonl")] == [None] * 3
    # A relative path is another folder on each.
    codes, said = nodes(tmp_path, *command, "images")
    assert 0 not in codes, said
    assert said.count("the processes do not share the folder images") == 1
    assert not list(tmp_path.glob("node*/images/*"))


@pytest.mark.thorough
def test_two_nodes_with_caches_of_their_own_train_what_one_does(
    tiny_model: Path, posters: Path, tmp_path: Path
) -> None:
    sets = {"train": str(posters / "train"), "validation": str(posters / "validation")}
    lora = {"rank": 2, "targets": ["q_proj", "down_proj"]}
    stage = {"steps": 2, "global_batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.01, "lora": lora}
    recipe = {"model": str(tiny_model), "data": sets, "autoregressive": stage, "save_dtype": "float32", "output": "run"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["finetune", str(tmp_path / "recipe.yaml"), "--device", "cpu"]
    assert main([*command, f"output={tmp_path / 'one'}"]) == 0
    codes, said = nodes(tmp_path, *command, f"output={tmp_path / 'two'}")
    assert codes == [0, 0], said
    one, two = (next((tmp_path / name / "adapter").rglob("*.safetensors")) for name in ("one", "two"))
    expected, found = load_file(one), load_file(two)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).square().mean().sqrt().item() < 1e-5
    codes, said = nodes(tmp_path, *command)
    assert 0 not in codes, said
    assert said.count("the processes do not share the folder run") == 1
    assert not list(tmp_path.glob("node*/run/*"))
