"""Jobs of one image each, and the thread that owns the model and does them.

Waiting jobs of one setting get their prior tokens together, as many as `batch`; their images follow, oldest first. The
next batch is that of the oldest job that waits, so that unlike settings wait for one batch at most.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from glmkit.errors import GenerationError
from glmkit.generation.condition_images import ConditionImage, encode_condition_images
from glmkit.generation.denoising import decode_images, denoise
from glmkit.generation.hybrid_generator import attempt
from glmkit.generation.images import image_text
from glmkit.generation.pipeline import generate_one
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.generation.requests import batch_settings, new_request
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request
from glmkit.serving.adapters import AdapterSwitch
from glmkit.serving.fields import Adapters
from glmkit.serving.settings import MODEL, ApiError, ServerSettings

BATCH = 16  # prompts whose prior tokens a GPU generates in nearly the time of one
FIRST_GUESS = 10.0  # seconds an image takes, before one is done
SMOOTHING = 0.2  # of the seconds of an image


@dataclass(frozen=True)
class Progressed:
    """Say how far the job is: steps done of `total` in a stage."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Previewed:
    """Hold the image that the steps so far would end in; partial images are counted from 0."""

    index: int
    image: Image.Image


@dataclass(frozen=True)
class Finished:
    """Hold the image, the text for its file, and the seconds that the model spent on it.

    `condition_ids` are the token ids h w of the images that it edits.
    """

    image: Image.Image
    text: Mapping[str, str]
    seconds: float
    condition_ids: tuple[Tensor, ...] = ()


Event = Progressed | Previewed | Finished | ApiError


@dataclass(eq=False)
class Job:
    """One image to generate; `tell` gets its events in the model's thread, and ends with `Finished` or an ApiError.

    `deadline` is a time of `time.monotonic`.
    """

    request: Request
    adapters: Adapters
    deadline: float
    tell: Callable[[Event], None]
    partial_images: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: bool = False

    @property
    def kind(self) -> tuple[object, ...]:
        """Return what the jobs of one batch have in common."""
        return (self.adapters, *batch_settings(self.request))


class Dropped(BaseException):
    """No job of the batch is wanted any more: the model stops between two steps, whatever else catches errors."""


class Scheduler:
    """Does the jobs of a queue with one model, in one thread."""

    def __init__(self, hybrid: HybridModel, switch: AdapterSwitch, settings: ServerSettings) -> None:
        self.hybrid, self.switch, self.settings = hybrid, switch, settings
        # On a CPU, sums depend on the batch, and an image would depend on what else waits.
        self.batch = settings.batch or (BATCH if hybrid.device.type == "cuda" else 1)
        self.counts: Counter[str] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()  # by path and status
        self.seconds = {"prior_tokens": 0.0, "images": 0.0}
        self.held = 0  # places taken: by jobs that wait or run, and by requests that are still being read
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self.ready = threading.Event()
        self._image_seconds = FIRST_GUESS
        self._thread = threading.Thread(target=self._run, name="glmkit-model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> None:
        """Let what runs end, refuse what waits, and wait for the thread, at most so many seconds."""
        with self._changed:
            self._stopping = True
            waiting, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
        for job in waiting:
            self._end(job, ApiError(503, "the server is stopping", retry_after=self._image_seconds))
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        """Count the jobs that wait."""
        return len(self._waiting)

    def reserve(self, count: int) -> None:
        """Take places in the queue before anything large is read; ApiError 429 when there are not so many."""
        with self._changed:
            if self._stopping:
                raise ApiError(503, "the server is stopping", retry_after=self._image_seconds)
            if self.held + count > self.settings.queue:
                self.counts["refused"] += 1
                wait = max(1, self.held) * self._image_seconds
                raise ApiError(429, f"{self.held} images wait already", code="queue_full", retry_after=wait)
            self.held += count

    def release(self, count: int) -> None:
        """Give places back that no job took."""
        with self._changed:
            self.held -= count

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, for which places are reserved."""
        with self._changed:
            stopping = self._stopping
            if not stopping:
                self._waiting.extend(jobs)
                self._changed.notify_all()
        if stopping:
            for job in jobs:
                self._end(job, ApiError(503, "the server is stopping", retry_after=self._image_seconds))

    def _run(self) -> None:
        if self.settings.warm_up:
            generate_one(self.hybrid, new_request(self.hybrid.folder, "warm-up", 'a poster with "A"', steps=2))
        self.ready.set()
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = self._take()
            try:
                self._generate(batch)
            except Exception as error:  # such as an adapter whose file is gone
                for job in batch:
                    self._end(job, ApiError(500, str(GenerationError.of(error))))

    def _take(self) -> list[Job]:
        """Take the oldest job, and others of its kind, from those that wait."""
        kind = self._waiting[0].kind
        batch = [job for job in self._waiting if job.kind == kind][: self.batch]
        taken = set(map(id, batch))
        self._waiting = deque(job for job in self._waiting if id(job) not in taken)
        return batch

    def _generate(self, batch: Sequence[Job]) -> None:
        wanted = [job for job in batch if self._is_wanted(job)]
        if not wanted:
            return
        # 1. The weights that all jobs of the batch want.
        self.switch.use(wanted[0].adapters)
        # 2. Prior tokens of all together.
        by_id = {job.request.id: job for job in wanted}
        self.counts["batches"] += 1
        ready: list[tuple[Job, tuple[Tensor, Sequence[ConditionImage]], float]] = []
        try:
            for tried in attempt(self._prior_tokens_of(by_id), [job.request for job in wanted]):
                job = by_id[tried.request.id]
                self.seconds["prior_tokens"] += tried.seconds
                if tried.value is not None:
                    ready.append((job, tried.value, tried.seconds))
                else:
                    self._fail(job, tried.error)
        except Dropped:
            pass
        # 3. Their images, oldest first.
        for job, (prior_token_ids, condition_images), seconds in ready:
            if not self._is_wanted(job):
                continue
            started = time.perf_counter()
            try:
                image = self._image(job, prior_token_ids, condition_images)
            except Dropped:
                self._is_wanted(job)
                continue
            except Exception as error:
                self._fail(job, error)
                continue
            spent = time.perf_counter() - started
            self.seconds["images"] += spent
            self._image_seconds += SMOOTHING * (seconds + spent - self._image_seconds)
            names, weights = [name for name, _ in job.adapters], self.switch.digest(job.adapters)
            text = image_text(job.request, MODEL, names, weights, self.hybrid.precision)
            self.counts["finished"] += 1
            condition_ids = tuple(one.token_ids.cpu() for one in condition_images)
            self._end(job, Finished(image, text, seconds + spent, condition_ids))
        for job in wanted:  # those that a dropped batch did not come to
            self._is_wanted(job)

    def _prior_tokens_of(
        self, jobs: Mapping[str, Job]
    ) -> Callable[[Sequence[Request]], list[tuple[Tensor, Sequence[ConditionImage]]]]:
        def compute(requests: Sequence[Request]) -> list[tuple[Tensor, Sequence[ConditionImage]]]:
            of_batch = [jobs[request.id] for request in requests]

            def progress(stage: str, done: int, total: int) -> None:
                if not any(map(_is_alive, of_batch)):
                    raise Dropped
                for job in of_batch:
                    job.tell(Progressed(stage, done, total))

            condition_images = encode_condition_images(self.hybrid, requests)
            ids = generate_prior_tokens(self.hybrid, requests, condition_images, progress)
            return list(zip(ids, condition_images, strict=True))

        return compute

    def _image(self, job: Job, prior_token_ids: Tensor, condition_images: Sequence[ConditionImage]) -> Image.Image:
        steps = job.request.steps
        at = {max(1, round(steps * (k + 1) / (job.partial_images + 1))): k for k in range(job.partial_images)}

        def progress(stage: str, done: int, total: int) -> None:
            if not _is_alive(job):
                raise Dropped
            job.tell(Progressed(stage, done, total))

        def preview(done: int, latents: Tensor) -> None:
            if done in at and done < steps:
                job.tell(Previewed(at[done], decode_images(self.hybrid, latents, job.request.vae_tiling)[0]))

        predicted = preview if at else None
        latents = denoise(self.hybrid, [job.request], [prior_token_ids], None, [condition_images], progress, predicted)
        return decode_images(self.hybrid, latents, job.request.vae_tiling)[0]

    def _is_wanted(self, job: Job) -> bool:
        """Tell whether somebody still waits for a job; end it otherwise."""
        if job.cancelled.is_set():
            self.counts["cancelled"] += not job.ended
            self._end(job, gone())
        elif time.monotonic() >= job.deadline:
            self._end(job, ApiError(504, f"the image took more than {self.settings.deadline:g} s", code="timeout"))
        return not job.ended

    def _fail(self, job: Job, error: Exception | None) -> None:
        self.counts["failed"] += 1
        assert error is not None
        update = GenerationError.of(error)
        self._end(job, ApiError(500, ApiError.of(update).message, code="generation_failed"))

    def _end(self, job: Job, event: Finished | ApiError) -> None:
        """Tell a job's last event, once, and give its place back."""
        if job.ended:
            return
        job.ended = True
        self.release(1)
        job.tell(event)


def gone() -> ApiError:
    """Make the error for a client that did not wait, which it does not read."""
    return ApiError(499, "the client went away")


def _is_alive(job: Job) -> bool:
    return not job.cancelled.is_set() and time.monotonic() < job.deadline
