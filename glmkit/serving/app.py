"""The routes: OpenAI's images API, health and metrics, and the page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from glmkit.serving import metrics, uploads
from glmkit.serving.answers import answer, described, event, image_data, stream_event, usage
from glmkit.serving.fields import ImageRequest, parse
from glmkit.serving.guard import LOG, Guard, api_error
from glmkit.serving.scheduler import Event, Finished, Job, Previewed, Progressed, Scheduler, gone
from glmkit.serving.settings import ApiError, ServerSettings

PAGE = Path(__file__).with_name("page.html")
LOOK = 0.2  # seconds between two looks whether the client is still there
BETWEEN = 0.1  # seconds between two events of progress
KEEP_ALIVE = 15.0  # seconds between two signs of life in a stream
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
)
POLICY += "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Read = Callable[[Request, Path], Awaitable[tuple[dict[str, Any], list[Path]]]]


class Pending(NamedTuple):
    """Jobs of one request, their events by number of the job, and what to clean up behind them."""

    parsed: ImageRequest
    jobs: list[Job]
    events: asyncio.Queue[tuple[int, Event]]
    clean_up: ExitStack

    def close(self) -> None:
        """Drop what is not done yet, and remove the uploads."""
        for job in self.jobs:
            job.cancelled.set()
        self.clean_up.close()


class EventStream(StreamingResponse):
    """A stream of events whose jobs are dropped when it ends, in whatever way."""

    def __init__(self, content: AsyncIterator[str], pending: Pending) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.pending = pending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.pending.close()


def create_app(scheduler: Scheduler, settings: ServerSettings) -> FastAPI:
    """Make the application; its scheduler is started and stopped with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await asyncio.to_thread(scheduler.stop)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)  # their pages load from elsewhere
    app.state.max_body = settings.max_body
    app.add_middleware(Guard, scheduler=scheduler, settings=settings)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _server_error)

    _add_images(app, scheduler, settings)
    _add_others(app, scheduler, settings)
    return app


def _add_images(app: FastAPI, scheduler: Scheduler, settings: ServerSettings) -> None:
    @app.post("/v1/images/generations")
    async def generations(request: Request) -> Response:
        return await images(request, uploads.read_json, "image_generation")

    @app.post("/v1/images/edits")
    async def edits(request: Request) -> Response:
        return await images(request, uploads.read_form, "image_edit")

    async def images(request: Request, read: Read, kind: str) -> Response:
        pending = await _queue(request, read, scheduler, settings)
        if pending.parsed.stream:
            return EventStream(_stream(pending, kind, scheduler), pending)
        try:
            return JSONResponse(await _wait(request, pending, scheduler))
        finally:
            pending.close()


def _add_others(app: FastAPI, scheduler: Scheduler, settings: ServerSettings) -> None:
    started = int(time.time())
    models = [{"id": name, "object": "model", "created": started, "owned_by": "glmkit"} for name in settings.models]

    @app.get("/")
    async def page() -> Response:
        return FileResponse(PAGE, media_type="text/html", headers={"Content-Security-Policy": POLICY})

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if not scheduler.ready.is_set():
            raise ApiError(503, "the model is being loaded", retry_after=10)
        return {"status": "ok"}

    @app.get("/metrics")
    async def measured() -> Response:
        return PlainTextResponse(metrics.text(scheduler), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": models}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        for model in models:
            if model["id"] == name:
                return model
        raise ApiError(404, f"there is no model {name[:80]!r} here", param="model", code="model_not_found")

    @app.get("/v1/glmkit")
    async def about() -> dict[str, Any]:
        """Tell the page what this server does."""
        return uploads.describe(scheduler.hybrid.folder, settings)


async def _queue(request: Request, read: Read, scheduler: Scheduler, settings: ServerSettings) -> Pending:
    """Read and check a request, and queue its jobs. A place in the queue comes before anything large is read."""
    deadline = time.monotonic() + settings.deadline
    scheduler.reserve(1)
    held = 1
    with ExitStack() as stack:
        try:
            folder = uploads.temporary_folder(stack)
            try:
                values, images = await asyncio.wait_for(read(request, folder), uploads.READ_SECONDS)
            except TimeoutError as error:
                raise ApiError(408, f"the request did not arrive within {uploads.READ_SECONDS} s") from error
            except ClientDisconnect as error:
                raise gone() from error
            parsed = await asyncio.to_thread(parse, values, scheduler.hybrid, settings, images)
            if len(parsed.requests) > held:
                scheduler.reserve(len(parsed.requests) - held)
                held = len(parsed.requests)
        except BaseException:
            scheduler.release(held)
            raise
        if settings.log_prompts:
            LOG.info("%s prompt: %r", request.state.id, parsed.requests[0].prompt)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event]]()

        def teller(number: int) -> Callable[[Event], None]:
            def tell(event: Event) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(events.put_nowait, (number, event))

            return tell

        jobs = [
            Job(
                uploads.named(one, request.state.id, number),
                parsed.adapters,
                deadline,
                teller(number),
                parsed.partial_images,
            )
            for number, one in enumerate(parsed.requests)
        ]
        scheduler.submit(jobs)
        return Pending(parsed, jobs, events, stack.pop_all())


async def _wait(request: Request, pending: Pending, scheduler: Scheduler) -> dict[str, Any]:
    """Return the answer when all images are there; ApiError for the first that failed, or when the client is gone."""
    finished: dict[int, Finished] = {}
    look = 0.0
    while len(finished) < len(pending.jobs):
        if time.monotonic() >= look:  # also while steps follow each other quickly
            if await request.is_disconnected():
                raise gone()
            look = time.monotonic() + LOOK
        try:
            number, update = await asyncio.wait_for(pending.events.get(), LOOK)
        except TimeoutError:
            continue
        if isinstance(update, ApiError):
            raise update
        if isinstance(update, Finished):
            finished[number] = update
    images = [finished[number] for number in range(len(pending.jobs))]
    return await asyncio.to_thread(answer, pending.parsed, images, scheduler.hybrid.folder)


async def _stream(pending: Pending, kind: str, scheduler: Scheduler) -> AsyncIterator[str]:
    """Yield progress, partial images and the image as events; an error is the last of them."""
    quiet_until = 0.0
    while True:
        try:
            _, update = await asyncio.wait_for(pending.events.get(), KEEP_ALIVE)
        except TimeoutError:
            yield ": waiting\n\n"
            continue
        if isinstance(update, Progressed):
            now = time.monotonic()
            if update.done < update.total and now < quiet_until:
                continue
            quiet_until = now + BETWEEN
            stage = {"stage": update.stage, "done": update.done, "total": update.total}
            yield stream_event("glmkit.progress", stage)
        elif isinstance(update, ApiError):
            yield event("error", {**update.body(), "type": "error"})
            return
        else:
            folder = scheduler.hybrid.folder
            name, values = await asyncio.to_thread(_image_event, update, pending.parsed, kind, folder)
            yield stream_event(name, values)
            if isinstance(update, Finished):
                return


def _image_event(
    update: Finished | Previewed, parsed: ImageRequest, kind: str, folder: Path
) -> tuple[str, dict[str, Any]]:
    about = {"created_at": int(time.time()), **described(parsed)}
    if isinstance(update, Previewed):
        data = image_data(parsed, Finished(update.image, {}, 0.0))
        return f"{kind}.partial_image", {**data, **about, "partial_image_index": update.index}
    return f"{kind}.completed", {**image_data(parsed, update), **about, "usage": usage(parsed, update, folder)}


def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return api_error(error)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return api_error(ApiError(error.status_code, str(error.detail)))


def _server_error(request: Request, error: Exception) -> Response:
    LOG.error("%s failed", request.state.id, exc_info=error)
    return api_error(ApiError(500, "the server failed; its log says why"))
