"""Work side by side: results in order, one thread each, modes and errors as without it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import torch

from glmkit.models.cpu_threads import parallel_map

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_pieces_run_at_the_same_time_with_one_thread_each() -> None:
    together = threading.Barrier(2, timeout=20)  # breaks unless both are there

    def piece(number: int) -> tuple[int, int, bool]:
        together.wait()
        return number, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch.inference_mode():
        assert parallel_map(piece, [0, 1, 2, 3], CPU) == [(number, 1, True) for number in range(4)]
    assert parallel_map(piece, [0, 1], CPU) == [(0, 1, False), (1, 1, False)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_few_pieces_share_many_threads() -> None:
    torch.set_num_threads(5)
    assert parallel_map(lambda _: torch.get_num_threads(), [0, 1], CPU) == [2, 2]
    assert torch.get_num_threads() == 5
    assert parallel_map(lambda number: number, [], CPU) == []


@pytest.mark.usefixtures("two_threads")
def test_threads_to_come_have_the_usual_number() -> None:
    parallel_map(lambda number: number, [0, 1], CPU)
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2]


@pytest.mark.usefixtures("two_threads")
def test_gradients_errors_and_nesting() -> None:
    with torch.no_grad():
        assert parallel_map(lambda _: torch.is_grad_enabled(), [0, 1], CPU) == [False, False]
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda number: 1 // number, [1, 0], CPU)
    assert parallel_map(lambda number: parallel_map(lambda more: number + more, [1, 2, 3], CPU), [0, 10], CPU) == [
        [1, 2, 3],
        [11, 12, 13],
    ]


@pytest.mark.usefixtures("two_threads")
def test_a_forked_process_has_threads_of_its_own() -> None:
    parallel_map(lambda number: number, [0, 1], CPU)
    child = os.fork()
    if child == 0:
        os._exit(0 if parallel_map(lambda number: number, [3, 4], CPU) == [3, 4] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_one_thread_or_another_device_stays_here() -> None:
    here = threading.get_ident()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert parallel_map(lambda _: threading.get_ident(), [0, 1], CPU) == [here, here]
    finally:
        torch.set_num_threads(before)
    assert parallel_map(lambda _: threading.get_ident(), [0, 1], torch.device("meta")) == [here, here]
