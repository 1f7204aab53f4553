"""Images of a baseline: each request once, by as many workers as the baseline allows, in one process or several."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.work_queue import WorkItem, claim_items
from glmkit.errors import UserError
from glmkit.evaluation.baselines import Baseline
from glmkit.generation.images import described, save_png
from glmkit.records import Request


class Done(NamedTuple):
    """A request whose image is saved, or the reason why there is none."""

    request: Request
    seconds: float
    error: Exception | None


def draw_missing(
    baseline: Baseline,
    model: str,
    requests: Sequence[Request],
    file: Callable[[Request], Path],
    work: Path,
) -> Iterator[Done]:
    """Draw the requests whose `file` does not exist; outcomes as they come, with progress, rate and cost on stderr.

    Lock files in `work` keep workers and processes from drawing the same. A UserError of the baseline ends the run;
    images that are under way then are still finished and saved, for some have been paid for.
    """
    todo = sum(not file(request).exists() for request in requests)
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as progress:
        task, started = progress.add_task("images", total=todo, note=""), time.monotonic()
        for count, done in enumerate(_worked(baseline, model, requests, file, work), start=1):
            rate = f"{count * 60 / (time.monotonic() - started):.1f} a minute"
            progress.update(task, completed=count, note=" · ".join(filter(None, (rate, baseline.progress_note()))))
            yield done


def _worked(
    baseline: Baseline, model: str, requests: Sequence[Request], file: Callable[[Request], Path], work: Path
) -> Iterator[Done]:
    group = ProcessGroup.from_environment()
    items = [WorkItem(request.id, request) for request in requests]
    stop, failed = threading.Event(), set[str]()
    found: queue.SimpleQueue[Done | Exception | None] = queue.SimpleQueue()

    def missing(request: Request) -> bool:
        return not (stop.is_set() or request.id in failed or file(request).exists())

    def run(number: int) -> None:
        worker = ProcessGroup(group.rank * baseline.workers + number, group.world_size * baseline.workers)
        try:
            for request in claim_items(items, work, worker, missing):
                done = _attempt(baseline, model, request, file(request))
                if done.error is not None:
                    failed.add(request.id)
                found.put(done)
        except Exception as error:
            found.put(error)
        found.put(None)

    workers = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(baseline.workers)]
    for worker in workers:
        worker.start()
    try:
        for _ in workers:
            while (item := found.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def _attempt(baseline: Baseline, model: str, request: Request, path: Path) -> Done:
    """Draw and save; the lock of the request is held until the file is there."""
    started = time.monotonic()
    try:
        image, about = baseline.generate(request)
        text = {**_described(baseline, request, model), **about}
        save_png(path, image, text)
    except UserError:
        raise
    except Exception as error:  # whatever went wrong with this image is its error row
        return Done(request, time.monotonic() - started, error)
    return Done(request, time.monotonic() - started, None)


def _described(baseline: Baseline, request: Request, model: str) -> dict[str, str]:
    """What an image says about itself, without what the baseline does not have."""
    lacks = {"sampling"}
    lacks |= {key for key in ("steps", "guidance") if getattr(baseline.defaults, key) is None}
    return {key: value for key, value in described(request, model).items() if key not in lacks}
