"""Images of a baseline: one request at a time by as many workers as the baseline allows, in one process or several."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.work_queue import WorkItem, claim_items
from glmkit.errors import UserError
from glmkit.evaluation.baselines import Baseline
from glmkit.generation.batch import IsMissing, Report, Result
from glmkit.generation.images import image_text
from glmkit.records import Request

if TYPE_CHECKING:
    import torch


class BaselineGenerator:
    """Generates with a baseline. A UserError of the baseline ends the run, any other error is the request's result.

    `device` is that of a local baseline, whose memory is measured; None for others.
    """

    def __init__(self, baseline: Baseline, model: str, device: torch.device | None = None) -> None:
        self.baseline, self.model, self.device = baseline, model, device
        self._started, self._done = time.monotonic(), 0

    def note(self) -> str:
        """Return the rate, and what the baseline has to tell, like the cost."""
        rate = f"{self._done * 60 / (time.monotonic() - self._started):.1f} per minute" if self._done else ""
        return " · ".join(filter(None, (rate, self.baseline.progress_note())))

    def generate_missing(
        self, requests: Sequence[Request], is_missing: IsMissing, report: Report, work: Path, group: ProcessGroup
    ) -> None:
        """Generate what is missing; see `ImageGenerator`.

        When the run ends early, images that are under way are still finished and saved, for some have been paid for.
        """
        items = [WorkItem(request.id, request) for request in requests]
        stop, failed = threading.Event(), set[str]()
        ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        n_workers = self.baseline.workers

        def is_wanted(request: Request) -> bool:
            return not stop.is_set() and request.id not in failed and is_missing(request)

        def run(number: int) -> None:
            worker = ProcessGroup(group.rank * n_workers + number, group.world_size * n_workers)
            try:
                for request in claim_items(items, work, worker, is_wanted):
                    try:
                        if not self._generate(request, report):
                            failed.add(request.id)
                    except UserError:
                        stop.set()  # before another worker takes the request
                        raise
                ended.put(None)
            except Exception as error:
                ended.put(error)

        workers = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(n_workers)]
        for worker in workers:
            worker.start()
        try:
            for _ in workers:
                if (error := ended.get()) is not None:
                    raise error
        finally:
            stop.set()
            for worker in workers:
                worker.join()

    def _generate(self, request: Request, report: Report) -> bool:
        """Report the result of one request; returns whether there is an image."""
        started = time.monotonic()
        try:
            image, extra_text = self.baseline.generate(request)
            seconds, text = time.monotonic() - started, {**self._text(request), **extra_text}
            report(Result(request, seconds, image, text, peak_memory_gib=self._peak_memory_gib()))
        except UserError:
            raise
        except Exception as error:  # whatever went wrong with this image is its record
            report(Result(request, time.monotonic() - started, error=error))
            return False
        finally:
            self._done += 1
        return True

    def _peak_memory_gib(self) -> float | None:
        if self.device is None:
            return None
        from glmkit.models.hardware import peak_memory_gib

        return peak_memory_gib(self.device)

    def _text(self, request: Request) -> dict[str, str]:
        """Return what an image says about itself, without what the baseline does not have."""
        lacks = {"sampling"}
        lacks |= {key for key in ("steps", "guidance") if getattr(self.baseline.defaults, key) is None}
        return {key: value for key, value in image_text(request, self.model).items() if key not in lacks}
