"""Processes of a launcher join and end together, and wait for each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from processes import TORCHRUN, fork, free_port, launch

from glmkit.distributed import together
from glmkit.errors import UserError

LEAVING = """
from pathlib import Path
import torch
from glmkit.distributed.together import together

with together(torch.device("cpu")):
    import torch._dynamo
names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
assert not [name for name in names if "gloo" in name], names
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are found in /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """One that does may abort its process at exit, and torchrun then ends the others."""
    (tmp_path / "leaving.py").write_text(LEAVING)
    result = launch(*TORCHRUN, free_port(), str(tmp_path / "leaving.py"))
    assert result.returncode == 0, result.stderr


def test_several_gpus_need_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has it on Linux only."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(together, "_take_gpu", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(UserError, match="without a launcher"), together.together(torch.device("cuda")):
        pass


def wait_for_the_first(_: int) -> int:
    together.TIMEOUT = timedelta(seconds=4)
    with together.together(torch.device("cpu")) as group:
        with group.main_process_first():
            if group.is_main:
                time.sleep(6)
        return 0 if group.reduce_sum(1) == 2 else 1


def test_the_first_process_may_take_longer_than_an_exchange(tmp_path: Path) -> None:
    """It downloads the model, or reads a large data set, while the others wait."""
    assert fork(wait_for_the_first, tmp_path)[0] == [0, 0]


WAITING = """
import os, signal, sys, time
import torch
from glmkit.distributed import together, watch
from glmkit.errors import UserError

watch.SECONDS_TO_END = 1.0
together._take_gpu = lambda *_: None
torch.distributed.is_nccl_available = lambda: True
init, end = torch.distributed.init_process_group, sys.argv[1]
torch.distributed.init_process_group = lambda backend, **options: init("gloo", **options)
try:
    with together.together(torch.device("cuda")) as group:
        if end == "dies" and group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "fails" and group.rank == 1:
            raise UserError("the images are gone")
        if end != "nobody":
            time.sleep(200)  # as a GPU waits for the other one
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
names = [thread.name for thread in __import__("threading").enumerate()]
assert "glmkit-watch" not in names, names
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [("nobody", ""), ("dies", "another process of this command has ended"), ("fails", "the images are gone")],
)
def test_a_process_that_waits_for_a_dead_one_ends(end: str, said: str, tmp_path: Path) -> None:
    """By a process that nothing else starts or ends: a launcher on another machine does neither."""
    (tmp_path / "waiting.py").write_text(WAITING)
    port, began = free_port(), time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "waiting.py"), end],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(2)
    ]
    errors = "".join(process.communicate(timeout=150)[1] for process in processes)
    codes = [process.returncode for process in processes]
    assert codes == {"nobody": [0, 0], "dies": [2, -signal.SIGKILL], "fails": [2, 2]}[end], errors
    assert errors.count("error:") == (1 if said else 0)
    assert said in errors
    assert time.monotonic() - began < 100
