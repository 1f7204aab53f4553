"""Limits for a chat template, a small program that comes with a model: so much time, so much memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MAX_LINES = 100_000  # of a template that are run; one prompt takes a few dozen
MEMORY = 2**30  # bytes that may come on top meanwhile


@contextmanager
def limited() -> Iterator[None]:
    """Stop a template that does not end (TimeoutError) or takes too much memory (MemoryError, on Linux).

    transformers runs templates in jinja's sandbox, which keeps them from files and programs, not from endless loops.
    """
    lines = 0

    def count(frame: FrameType, *_event: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != "<template>":
            return None
        lines += 1
        if lines > MAX_LINES:
            raise TimeoutError("it does not end")
        return count

    before = sys.gettrace()
    with _memory():
        sys.settrace(count)
        try:
            yield
        finally:
            sys.settrace(before)


@contextmanager
def _memory() -> Iterator[None]:
    status = Path("/proc/self/statm")
    if resource is None or not status.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    limit = used + MEMORY
    if resource.RLIM_INFINITY not in (soft, hard):
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
