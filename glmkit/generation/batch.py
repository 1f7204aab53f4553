"""Many images: the codes of all of them first, in large batches, then the images.

A step of the autoregressive half costs a GPU nearly the same for 64 images as for one, and the decoder is full with
one. Codes wait on the disk in between, so each half of the model is needed once, and a killed run loses at most the
batches that it was working on. Batches are cut from all requests, those that are drawn already included, and one that
lacks an image is drawn whole: floating-point sums depend on the batch, and a continued run gives the images of an
undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.distributed.work_queue import WorkItem, claim_items
from glmkit.files import atomic_path
from glmkit.generation import pipeline
from glmkit.generation.pipeline import FAILURES, Outcome, Progress, check, settings_of
from glmkit.hashing import fingerprint
from glmkit.models.checkpoint.adapters import Adapter
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

CODES_AT_ONCE = 64
IMAGES_AT_ONCE = 4
CODES_FIELDS = ("prompt", "seed", "height", "width", "condition_images", "temperature", "top_p", "top_k")

Missing = Callable[[Request], bool]


def generate_all(
    hybrid: HybridModel,
    requests: Sequence[Request],
    missing: Missing,
    work: Path,
    batch_size: int = CODES_AT_ONCE,
    progress: Progress | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Iterator[Outcome]:
    """Draw the requests for which `missing` holds; it must not hold any more once an outcome's image was taken.

    `work` keeps the codes (`Codes`) and the locks by which several processes share the work: each yields what it drew
    itself, and all end when nothing is missing. A batch that fails is tried again one by one; a request that fails
    alone becomes an outcome with its error.
    """
    codes = Codes(work, hybrid)
    failed: set[str] = set()
    at_once = min(batch_size, -(-len(requests) // group.world_size))
    for batch in claim_items(
        _units(requests, at_once, "codes"),
        work,
        group,
        lambda batch: any(not codes.has(one) and missing(one) for one in batch),
    ):
        for outcome in _codes(hybrid, batch, codes, progress):
            failed.add(outcome.request.id)
            yield outcome
    for batch in claim_items(
        _units(requests, min(IMAGES_AT_ONCE, at_once), "image"),
        work,
        group,
        lambda batch: any(one.id not in failed and missing(one) for one in batch),
    ):
        wanted = {one.id for one in batch if missing(one)}
        ready = [one for one in batch if codes.has(one)]
        for outcome in _images(hybrid, ready, codes, progress):
            if outcome.request.id in wanted:
                yield outcome


class Codes:
    """The codes of requests in a folder, one file each, named after everything that they depend on."""

    def __init__(self, folder: Path, hybrid: HybridModel) -> None:
        self.folder = folder
        adapters = map(Adapter.parse, hybrid.adapters)
        weights = [
            fingerprint(hybrid.folder),
            *((fingerprint(adapter.folder), adapter.weight) for adapter in adapters),
            str(hybrid.dtype),
        ]
        self._weights = json.dumps(weights)

    def path(self, request: Request) -> Path:
        values = {key: value for key, value in asdict(request).items() if key in CODES_FIELDS}
        images = [fingerprint(path) for path in request.condition_images if Path(path).is_file()]
        digest = hashlib.sha256(json.dumps([self._weights, values, images], sort_keys=True).encode())
        return self.folder / f"{digest.hexdigest()[:24]}.npz"

    def has(self, request: Request) -> bool:
        return self.path(request).exists()

    def save(self, request: Request, codes_hw: Tensor, seconds: float) -> None:
        """`seconds` is what writing them took, for the account of the whole image."""
        with atomic_path(self.path(request)) as temporary:
            np.savez(temporary, codes=codes_hw.to("cpu", torch.int32).numpy(), seconds=seconds)

    def load(self, request: Request, device: torch.device) -> tuple[Tensor, float]:
        """Codes int64 h w, and the seconds that they took."""
        with np.load(self.path(request)) as stored:
            return torch.from_numpy(stored["codes"]).to(device, torch.int64), float(stored["seconds"])


def _units(requests: Sequence[Request], size: int, kind: str) -> list[WorkItem[tuple[Request, ...]]]:
    """Batches of one size and setting, smaller grids first."""
    groups: dict[tuple[object, ...], list[Request]] = {}
    for request in requests:
        groups.setdefault(settings_of(request), []).append(request)
    units = []
    for group in sorted(groups.values(), key=lambda group: group[0].height * group[0].width):
        for start in range(0, len(group), size):
            part = tuple(group[start : start + size])
            digest = hashlib.sha256("\0".join(one.id for one in part).encode()).hexdigest()[:16]
            units.append(WorkItem(f"{kind}-{digest}", part))
    return units


def _codes(
    hybrid: HybridModel, requests: Sequence[Request], codes: Codes, progress: Progress | None
) -> Iterator[Outcome]:
    """Write the codes of a batch; outcomes only of requests that failed."""
    started = time.perf_counter()
    try:
        for request in requests:
            check(request)
        written = pipeline.prior_tokens(hybrid, requests, progress=progress)
    except FAILURES as error:
        if len(requests) > 1:
            for request in requests:
                yield from _codes(hybrid, [request], codes, progress)
        else:
            yield Outcome(requests[0], None, error, time.perf_counter() - started)
        return
    seconds = (time.perf_counter() - started) / len(requests)
    for request, codes_hw in zip(requests, written, strict=True):
        codes.save(request, codes_hw, seconds)


def _images(
    hybrid: HybridModel, requests: Sequence[Request], codes: Codes, progress: Progress | None
) -> Iterator[Outcome]:
    if not requests:
        return
    started = time.perf_counter()
    try:
        stored = [codes.load(request, hybrid.device) for request in requests]
        images = pipeline.decode_prior(hybrid, requests, [codes_hw for codes_hw, _ in stored], progress=progress)
    except FAILURES as error:
        if len(requests) > 1:
            for request in requests:
                yield from _images(hybrid, [request], codes, progress)
        else:
            yield Outcome(requests[0], None, error, time.perf_counter() - started)
        return
    seconds = (time.perf_counter() - started) / len(requests)
    for request, image, (_, before) in zip(requests, images, stored, strict=True):
        yield Outcome(request, image, None, before + seconds)
