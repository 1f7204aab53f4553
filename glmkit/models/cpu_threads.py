"""Independent pieces of work side by side on a CPU, which share its threads.

The products of a small model are too short to be shared: threads inside them mostly wait for each other, on a busy
machine for longer than the work takes. Samples of a batch never wait.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(function: Callable[[T], R], items: Sequence[T], device: torch.device) -> list[R]:
    """Return `[function(item) for item in items]`; on a CPU side by side, with the threads shared out among them."""
    count = torch.get_num_threads()
    workers = min(count, len(items))
    if device.type != "cpu" or workers <= 1:
        return [function(item) for item in items]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()  # which are a thread's own

    def with_modes(item: T) -> R:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return function(item)

    pool = _pool(workers, count // workers)
    with threads(count // workers):  # a part of torch asks for the number of the process, not of the thread
        return list(pool.map(with_modes, items))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Have torch compute with `count` threads on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _pool(workers: int, count: int) -> ThreadPoolExecutor:
    """Return workers that compute with `count` threads each."""
    started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.set_num_threads(count)
        started.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="glmkit")
    for _ in range(workers):
        pool.submit(start)
    started.wait()  # none may start later and set the number then
    return pool


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
