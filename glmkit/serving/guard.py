"""What every request passes first: access, the limit of its size, an id, the log and the count."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glmkit.serving import metrics
from glmkit.serving.scheduler import Scheduler
from glmkit.serving.settings import ApiError, ServerSettings

LOG = logging.getLogger("glmkit.serve")
OPEN = ("/", "/health", "/ready")  # without a key


class Guard:
    """ASGI middleware around all routes. What the log says of a request: neither its prompt nor its key."""

    def __init__(self, app: ASGIApp, scheduler: Scheduler, settings: ServerSettings) -> None:
        self.app, self.scheduler, self.settings = app, scheduler, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, seen, status = time.perf_counter(), 0, 499
        name = scope.setdefault("state", {})["id"] = uuid.uuid4().hex[:16]

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.settings.max_body:
                raise too_large(self.settings.max_body)
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = name
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, counted, sent)
        except ApiError as error:
            await api_error(error)(scope, receive, sent)
        finally:
            metrics.count(self.scheduler, scope["path"], status)
            seconds = time.perf_counter() - started
            LOG.info("%s %s %s %d %.2f s", name, scope["method"], scope["path"][:100], status, seconds)

    def _check(self, scope: Scope) -> None:
        """Raise ApiError for a wrong key, another name of this machine, and requests that another site's page makes."""
        headers = Headers(scope=scope)
        host = re.sub(r":\d*$", "", headers.get("host", "").lower())
        if not {host, "*"} & {*self.settings.hosts}:
            known = ", ".join(self.settings.hosts)
            what = f"this server has no key, and answers to {known} only, not to {host[:80]!r}"
            raise ApiError(400, what, code="invalid_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise ApiError(403, "pages of other sites are not served", code="forbidden_origin")
        if self.settings.api_key is None or scope["path"] in OPEN:
            return
        given = headers.get("authorization", "").partition("Bearer ")[2].encode()
        if not hmac.compare_digest(given, self.settings.api_key.encode()):
            raise ApiError(401, "a wrong key, or none", code="invalid_api_key")


def too_large(most: int) -> ApiError:
    """Make the error for a body of more than `most` bytes."""
    return ApiError(413, f"a request has at most {most} bytes", code="too_large")


def api_error(error: ApiError) -> JSONResponse:
    """Make the answer that an error is."""
    return JSONResponse(error.body(), error.status, headers=error.headers())
