"""Many questions to a model that takes several at a time: with a progress bar, the rate and the cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from glmkit.errors import UserError, first_line
from glmkit.progress import progress_bars

K = TypeVar("K", bound=Hashable)
Q = TypeVar("Q")
A = TypeVar("A")


def ask_all(
    questions: Mapping[K, Q], answer: Callable[[Q], A], workers: int, note: Callable[[], str], title: str
) -> Iterator[tuple[K, A | Exception]]:
    """Answer each question in one of `workers` threads; yields its key with the answer, or with what went wrong.

    A UserError concerns all questions and ends the run. Questions that are under way are still answered then, for some
    have been paid for. `note` says what to show beside the progress.
    """
    stop, started = threading.Event(), time.monotonic()

    def one(question: Q) -> A | Exception | None:
        if stop.is_set():
            return None
        try:
            return answer(question)
        except UserError:
            stop.set()  # before another worker takes a question
            raise
        except Exception as error:  # whatever went wrong with this question is its error
            return error

    failed: UserError | None = None
    pool = ThreadPoolExecutor(workers)
    try:
        with progress_bars() as progress:
            task = progress.add_task(title, total=len(questions))
            futures = {pool.submit(one, question): key for key, question in questions.items()}
            for done, future in enumerate(as_completed(futures), start=1):
                try:
                    result = future.result()
                except UserError as error:
                    failed = failed or error
                    continue
                if result is not None:
                    rate = f"{done * 60 / max(time.monotonic() - started, 1e-3):.1f} per minute"
                    progress.update(task, advance=1, note=" · ".join(filter(None, (rate, note()))))
                    yield futures[future], result
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    if failed is not None:
        raise failed


def said(error: Exception) -> str:
    """Say what went wrong with one question in one line; a RuntimeError holds the sentence already."""
    return str(error) if type(error) is RuntimeError else first_line(error)
