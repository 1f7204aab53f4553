"""Generate many images with a GLM-Image model in two phases: prior tokens in large batches, then images in small ones.

A decoding step of the AR model costs a GPU nearly the same for 64 images as for one, and the diffusion decoder is full
with one. So the prior tokens of all requests come first and wait on the disk for the images: each half of the model is
needed once, and a killed run loses at most the batches that it was working on. Batches are cut from all requests, those
whose images are there already included, and one that lacks an image is generated whole: floating-point sums depend on
the batch, and a resumed run gives the images of an undisturbed one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image
from torch import Tensor

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.together import is_lost
from glmkit.distributed.work_queue import WorkItem, claim_items
from glmkit.errors import GenerationError
from glmkit.generation.batch import IsMissing, Report, Result
from glmkit.generation.denoising import decode_prior_tokens
from glmkit.generation.images import image_text, weights_digest
from glmkit.generation.prior_token_files import PriorTokenFiles, weights_behind
from glmkit.generation.prior_tokens import Progress, generate_prior_tokens
from glmkit.generation.requests import batch_settings, check_request
from glmkit.models.hardware import peak_memory_gib
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

PRIOR_TOKENS_BATCH = 64
IMAGES_BATCH = 4

T = TypeVar("T")


class HybridGenerator:
    """Generates with a GLM-Image model in two phases: the prior tokens of all requests, then their images.

    A batch that fails is tried again one by one, so that only the request at fault is lost. `prior_tokens` is a folder
    in which prior tokens stay.
    """

    def __init__(
        self,
        hybrid: HybridModel,
        batch_size: int = PRIOR_TOKENS_BATCH,
        progress: Progress | None = None,
        prior_tokens: Path | None = None,
    ) -> None:
        self.hybrid, self.batch_size, self.progress, self.prior_tokens = hybrid, batch_size, progress, prior_tokens
        self.weights = weights_digest(hybrid.folder, hybrid.adapters, hybrid.arithmetic)

    def note(self) -> str:
        """Return nothing: there is no cost to tell."""
        return ""

    def generate_missing(
        self, requests: Sequence[Request], is_missing: IsMissing, report: Report, work: Path, group: ProcessGroup
    ) -> None:
        """Generate what is missing, batch by batch; see `ImageGenerator`."""
        behind = weights_behind(self.hybrid.folder, self.hybrid.adapters, self.hybrid.arithmetic)
        files = PriorTokenFiles(self.prior_tokens or work, behind)
        failed: set[str] = set()
        size = min(self.batch_size, -(-len(requests) // group.world_size))

        # 1. Prior tokens of all requests, in large batches.
        def lacks_tokens(batch: Sequence[Request]) -> bool:
            return any(not files.has(request) and is_missing(request) for request in batch)

        for batch in claim_items(_batches(requests, size, "prior-tokens"), work, group, lacks_tokens):
            for tried in attempt(self._prior_tokens, batch):
                if tried.value is not None:
                    files.save(tried.request, tried.value, tried.seconds, peak_memory_gib(self.hybrid.device))
                else:
                    failed.add(tried.request.id)
                    report(Result(tried.request, tried.seconds, error=tried.error))

        # 2. Images from them, in small batches.
        def lacks_image(batch: Sequence[Request]) -> bool:
            return any(request.id not in failed and is_missing(request) for request in batch)

        for batch in claim_items(_batches(requests, min(IMAGES_BATCH, size), "images"), work, group, lacks_image):
            wanted = {request.id for request in batch if is_missing(request)}
            ready = [request for request in batch if files.has(request)]
            for image in attempt(lambda some: self._images(some, files), ready):
                if image.request.id in wanted:
                    report(self._result(image, files))

    def _prior_tokens(self, requests: Sequence[Request]) -> list[Tensor]:
        for request in requests:
            check_request(request)
        return generate_prior_tokens(self.hybrid, requests, progress=self.progress)

    def _images(self, requests: Sequence[Request], files: PriorTokenFiles) -> list[Image.Image]:
        prior_token_ids = [files.load(request, self.hybrid.device) for request in requests]
        return decode_prior_tokens(self.hybrid, requests, prior_token_ids, progress=self.progress)

    def _result(self, tried: Attempt[Image.Image], files: PriorTokenFiles) -> Result:
        request = tried.request
        if tried.value is None:
            return Result(request, tried.seconds, error=tried.error)
        hybrid = self.hybrid
        text = image_text(request, hybrid.name, hybrid.adapters, self.weights, hybrid.precision)
        seconds, peak = files.costs(request)
        peak = None if peak is None else max(peak, peak_memory_gib(hybrid.device))
        return Result(request, seconds + tried.seconds, tried.value, text, peak_memory_gib=peak)


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """Hold what a batch gave for one of its requests, or the error that it gave alone; `seconds` is its share."""

    request: Request
    seconds: float
    value: T | None = None
    error: Exception | None = None


def attempt(compute: Callable[[Sequence[Request]], Sequence[T]], batch: Sequence[Request]) -> Iterator[Attempt[T]]:
    """Yield what `compute` gives for a batch, in its order; when it fails, compute each request alone.

    The loss of another process is the end of all requests.
    """
    if not batch:
        return
    started = time.perf_counter()
    try:
        values = compute(batch)
    except Exception as error:
        if is_lost(error):
            raise
        if len(batch) > 1:
            for request in batch:
                yield from attempt(compute, [request])
        else:
            yield Attempt(batch[0], time.perf_counter() - started, error=GenerationError.of(error))
        return
    seconds = (time.perf_counter() - started) / len(batch)
    for request, value in zip(batch, values, strict=True):
        yield Attempt(request, seconds, value)


def _batches(requests: Sequence[Request], size: int, kind: str) -> list[WorkItem[Sequence[Request]]]:
    """Cut the requests into batches of one size and settings, smaller grids first."""
    groups: dict[tuple[object, ...], list[Request]] = {}
    for request in requests:
        groups.setdefault(batch_settings(request), []).append(request)
    items: list[WorkItem[Sequence[Request]]] = []
    for group in sorted(groups.values(), key=lambda group: group[0].height * group[0].width):
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            digest = hashlib.sha256("\0".join(request.id for request in batch).encode()).hexdigest()[:16]
            items.append(WorkItem(f"{kind}-{digest}", batch))
    return items
