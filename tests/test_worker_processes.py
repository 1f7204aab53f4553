"""Processes beside this one: its results and its errors, one input lost when one dies, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from glmkit import runs, worker_processes
from glmkit.errors import UserError
from glmkit.worker_processes import ProcessDiedError, WorkerProcesses

MAKE = "test_worker_processes:rooter"


def rooter(name: str) -> Callable[[float], str]:
    """The function under test: it also prints, which must not mix with answers, and may fail or die."""

    def root(value: float) -> str:
        print("looking at", value)
        if value < 0:
            raise UserError("no negative number", found=value, fix="a positive one")
        if value == 13:
            os._exit(3)
        return f"{name} {value**0.5}"

    return root


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcesses]:
    monkeypatch.setattr(runs, "cores", lambda: 2)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with WorkerProcesses(MAKE, "root", inputs=80) as workers:
        yield workers


def test_results_belong_to_their_inputs(processes: WorkerProcesses) -> None:
    waiting = [processes.submit(float(number)) for number in range(40) if number != 13]
    assert [one.result() for one in waiting] == [f"root {number**0.5}" for number in range(40) if number != 13]
    assert len(processes._running) == 2


def test_a_user_error_comes_back_whole(processes: WorkerProcesses) -> None:
    with pytest.raises(UserError) as raised:
        processes.submit(-4.0).result()
    assert (raised.value.what, raised.value.found, raised.value.fix) == ("no negative number", -4.0, "a positive one")
    assert str(raised.value) == str(UserError("no negative number", found=-4.0, fix="a positive one"))
    assert processes.submit(4.0).result() == "root 2.0"


def test_a_process_that_dies_costs_one_input(processes: WorkerProcesses) -> None:
    waiting = [processes.submit(value) for value in (1.0, 13.0, 4.0, 9.0)]
    with pytest.raises(ProcessDiedError, match="exit code 3"):
        waiting[1].result()
    assert [waiting[number].result() for number in (0, 2, 3)] == ["root 1.0", "root 2.0", "root 3.0"]


def test_closing_ends_the_processes(processes: WorkerProcesses) -> None:
    processes.submit(1.0).result()
    running = list(processes._running)
    processes.close()
    assert running
    assert all(process.poll() is not None for process in running)


def test_no_process_survives_a_killed_parent() -> None:
    code = (
        "import os; from glmkit.worker_processes import WorkerProcesses\n"
        "workers = WorkerProcesses('operator:attrgetter', 'real', inputs=1)\n"
        "assert workers.submit(3 + 1j).result() == 3\n"
        "print(*(one.pid for one in workers._running), flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    child = int(parent.stdout)
    for _ in range(600):
        if not _runs(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the process still runs")


def test_many_inputs_on_many_cores_are_worth_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "cores", lambda: 16)
    assert [worker_processes.worth_it(count) for count in (63, 64)] == [False, True]
    monkeypatch.setattr(runs, "cores", lambda: 2)
    assert not worker_processes.worth_it(512)


@pytest.mark.parametrize(("inputs", "cores", "count"), [(1, 16, 1), (64, 16, 2), (512, 8, 8), (6000, 64, 32)])
def test_few_inputs_have_few_processes(inputs: int, cores: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "cores", lambda: cores)
    with WorkerProcesses(MAKE, "root", inputs=inputs) as workers:
        assert workers._idle.qsize() == count


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False
    return True
