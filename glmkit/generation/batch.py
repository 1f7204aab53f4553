"""Generate many images into a folder, whatever interrupts it: resumed by content, shared by processes.

One implementation for the commands and for evaluations, for GLM-Image (`HybridGenerator`) and for baselines.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.work_queue import exclusive, participating, remove_work
from glmkit.errors import UserError
from glmkit.files import append_jsonl, read_jsonl, write_jsonl
from glmkit.generation.images import REWRITTEN_FROM, save_png
from glmkit.progress import StageBars
from glmkit.records import Generation, Request

JOURNAL = "images.jsonl"
WORK = ".work"
WORK_FILE = re.compile(r"[0-9a-f]{24}\.npz")  # prior tokens

IsMissing = Callable[[Request], bool]


@dataclass(frozen=True)
class Result:
    """Hold what became of a request: an image with the text that its file carries, or the error that prevented it.

    `seconds` is the request's share of its batches, `peak_memory_gib` the most memory in use until then.
    """

    request: Request
    seconds: float
    image: Image.Image | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    error: Exception | None = None
    peak_memory_gib: float | None = None


Report = Callable[[Result], None]


class ImageGenerator(Protocol):
    """Generates the images of requests: GLM-Image, or a baseline of an evaluation."""

    def generate_missing(
        self, requests: Sequence[Request], is_missing: IsMissing, report: Report, work: Path, group: ProcessGroup
    ) -> None:
        """Report a result for each request that is missing, while a lock in `work` keeps other processes from it.

        `report` saves the image, so a request whose result was reported without an error is no longer missing. All
        processes return when nothing is missing but what failed in them.
        """
        ...

    def note(self) -> str:
        """Return what to show beside the progress, like the cost; may be empty."""
        ...


@dataclass(frozen=True)
class GeneratedImages:
    """The record of each request, in their order, and how many images were there before."""

    records: tuple[Generation, ...]
    n_skipped: int

    @property
    def n_failed(self) -> int:
        """Tell how many requests have no image."""
        return sum(record.error is not None for record in self.records)

    @property
    def n_generated(self) -> int:
        """Tell how many images are new."""
        return len(self.records) - self.n_failed - self.n_skipped


def generate_many(
    requests: Sequence[Request],
    folder: Path,
    load_generator: Callable[[], ImageGenerator],
    *,
    file_name: Callable[[Request], str] = lambda request: f"{request.id}.png",
    is_complete: Callable[[Path, Request], bool] = lambda path, _: path.exists(),
    may_replace: Callable[[Path], bool] = lambda _: True,
    failed: Mapping[str, Exception] | None = None,
    prompt_ids: Mapping[str, str] | None = None,
    originals: Mapping[str, str] | None = None,
    bars: StageBars | None = None,
    group: ProcessGroup | None = None,
) -> GeneratedImages:
    """Generate an image file for every request into `folder`, with one record each in `images.jsonl`.

    Images for which `is_complete(path, request)` holds stay as they are. Another file in their place is replaced if
    `may_replace(path)` holds. A failure is a record with its error, and is tried again by the next call; `failed` are
    the errors of requests, by id, that cannot be served. The records of other requests stay, behind those of these. The
    generator is loaded only when something is missing. The processes of `group`, by default those that a launcher
    started, share the work. `prompt_ids` maps ids of requests to those of their prompts, the same where it is None, and
    `originals` to prompts before they were rewritten.
    """
    group = group or ProcessGroup.from_environment()
    # 1. Find the images that are there.
    work = folder / WORK
    images = _ImageFolder(requests, folder, file_name, is_complete, may_replace, prompt_ids, originals)
    images.refused |= {id_: str(error) for id_, error in (failed or {}).items()}
    able = [request for request in requests if failed is None or request.id not in failed]
    missing = [request for request in requests if images.is_missing(request)]
    if missing:
        # 2. Load what generates the others.
        generator = load_generator()
        if group.world_size == 1:  # several processes only add lines, until all is there
            images.write_journal(of_errors=False)

        # 3. Generate them: each image is saved, and then its record.
        def show(n_done: int) -> None:
            if bars is not None:
                bars.update("images", n_done, len(missing), generator.note())

        show(0)
        with participating(work):
            generator.generate_missing(able, images.is_missing, lambda result: show(images.save(result)), work, group)
    # 4. Put the records into the order of the requests; unless something failed, nothing of the work is needed again.
    records = images.records()
    if missing or (group.is_main and not images.are_in_journal(records)):
        # In every process: another one may have saved an image and not yet added its record. The last one has them all.
        images.write_journal()
    if work.exists() and all(record.error is None for record in records):  # in every process: the last one does it
        with suppress(UserError):  # on a disk that cannot be written it stays
            remove_work(work, lambda path: WORK_FILE.fullmatch(path.name) is not None)
    return GeneratedImages(tuple(records), len(requests) - len(missing) - len(images.refused))


class _ImageFolder:
    """The image files of requests in a folder, and their journal. Threads may save at the same time."""

    def __init__(
        self,
        requests: Sequence[Request],
        folder: Path,
        file_name: Callable[[Request], str],
        is_complete: Callable[[Path, Request], bool],
        may_replace: Callable[[Path], bool],
        prompt_ids: Mapping[str, str] | None,
        originals: Mapping[str, str] | None,
    ) -> None:
        self.requests, self.folder = requests, folder
        self._file_name, self._is_complete, self._prompt_ids = file_name, is_complete, prompt_ids
        self._originals = originals or {}
        self._complete: set[str] = set()  # finding out may take reading a whole image: once is enough
        self._lock, self._saved = threading.Lock(), 0
        paths = {request.id: folder / file_name(request) for request in requests if not self._has(request)}
        self.refused = {
            id_: f"{path} is there already and was not made by glmkit: move it away"
            for id_, path in paths.items()
            if os.path.lexists(path) and not may_replace(path)
        }

    def is_missing(self, request: Request) -> bool:
        """Tell whether the request has no image yet, and may get one."""
        return request.id not in self.refused and not self._has(request)

    def _has(self, request: Request) -> bool:
        if request.id not in self._complete and self._is_complete(self.folder / self._file_name(request), request):
            self._complete.add(request.id)
        return request.id in self._complete

    def save(self, result: Result) -> int:
        """Write the image and add its record, or that of the error, to the journal; returns how many were saved."""
        request, error = result.request, None if result.error is None else str(result.error)
        if result.image is not None:
            original = self._originals.get(request.id, request.prompt)
            more = {} if original == request.prompt else {REWRITTEN_FROM: original}
            save_png(self.folder / self._file_name(request), result.image, {**result.text, **more})
            self._complete.add(request.id)
        with self._lock, exclusive(self.folder / WORK):
            peak = None if result.peak_memory_gib is None else round(result.peak_memory_gib, 3)
            record = self._record(request, round(result.seconds, 3), error, peak)
            append_jsonl(self.folder / JOURNAL, record.to_dict())
            self._saved += 1
            return self._saved

    def records(self) -> list[Generation]:
        """Return a record for each request, in their order; the images decide, the journal knows costs and errors."""
        lines = self._lines_by_id()
        return [self._recorded(request, lines.get(request.id, {})) for request in self.requests]

    def are_in_journal(self, records: Sequence[Generation]) -> bool:
        """Tell whether the journal holds the records."""
        lines = self._lines_by_id()
        return all(record.to_dict() == lines.get(record.id) for record in records)

    def write_journal(self, *, of_errors: bool = True) -> None:
        """Put the records into the order of the requests, with or without those of errors; those of others follow."""
        with exclusive(self.folder / WORK):  # another process may add a record
            records = [record.to_dict() for record in self.records() if of_errors or record.error is None]
            known = {request.id for request in self.requests}
            others = [line for line in self._lines() if str(line.get("id")) not in known]
            write_jsonl(self.folder / JOURNAL, [*records, *others])

    def _lines_by_id(self) -> dict[str, dict[str, Any]]:
        """Map ids to the last line of each, which is what became of a request in the end."""
        return {str(line.get("id")): line for line in self._lines()}

    def _lines(self) -> list[dict[str, Any]]:
        journal = self.folder / JOURNAL
        return read_jsonl(journal, partial=True) if journal.exists() else []

    def _recorded(self, request: Request, line: Mapping[str, Any]) -> Generation:
        error = line.get("error")
        if request.id in self.refused:
            return self._record(request, None, self.refused[request.id])
        if not self._has(request):
            return self._record(request, line.get("seconds"), error or "not generated yet")
        # A process that was killed right after it saved an image has left no line.
        seconds, peak = (None, None) if error else (line.get("seconds"), line.get("peak_memory_gib"))
        return self._record(request, seconds, None, peak)

    def _record(
        self, request: Request, seconds: float | None, error: str | None, peak: float | None = None
    ) -> Generation:
        prompt_id = request.id if self._prompt_ids is None else self._prompt_ids[request.id]
        file = self._file_name(request) if error is None else None
        prompt = self._originals.get(request.id, request.prompt)
        rewritten = None if prompt == request.prompt else request.prompt
        return Generation(request.id, prompt_id, prompt, request.seed, file, seconds, error, rewritten, peak)
