"""What a server allows, and its errors in the form of OpenAI's API. Never imports torch."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glmkit.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_RETRY_AFTER = 120  # seconds; the official client waits no longer
MODEL = "glm-image"  # what clients call the model that is served


class ApiError(Exception):
    """An answer that is no image: an HTTP status, and the error object of OpenAI's API.

    `param` names the field at fault. `retry_after` is in seconds; None tells the official client not to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @classmethod
    def of(cls, error: UserError, param: str | None = None, code: str | None = None) -> ApiError:
        """Refuse a request for the reason that a UserError gives."""
        found = "" if error.found is None else f"; found: {error.found}"
        # A client has fields, such as size, where a command has options, such as --size.
        fix = "" if error.fix is None else "; try: " + re.sub(r"--(?=[a-z])", "", error.fix)
        return cls(400, f"{error.what}{found}{fix}"[:1000], param=param, code=code)

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return when to try again, or that it is of no use."""
        if self.retry_after is None:
            return {"x-should-retry": "false"}
        return {"Retry-After": str(max(1, min(MAX_RETRY_AFTER, round(self.retry_after))))}


@dataclass(frozen=True)
class ServerSettings:
    """Hold what a server allows.

    `adapters` maps names to `DIR` or `DIR:WEIGHT`. `queue` counts images that wait or are generated, `deadline` is in
    seconds from the arrival of a request, `max_body` in bytes, `max_prompt` in characters. `shortcuts` lets clients ask
    for settings that are quicker and not exact; with `vae_tiling` all large images are decoded in tiles. `batch`
    prompts get their prior tokens together; None: as many as leave the images as they are, 16 on a GPU and one on a
    CPU. `warm_up` generates an image before the first request is taken. Without `api_key` only loopback addresses are
    served.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    queue: int = 64
    deadline: float = 600.0
    max_body: int = 64 * 2**20
    max_prompt: int = 4000
    max_images: int = 4
    max_steps: int = 100
    max_pixels: int = 2048 * 2048
    batch: int | None = None
    shortcuts: bool = False
    vae_tiling: bool = False
    log_prompts: bool = False
    warm_up: bool = True

    def __post_init__(self) -> None:
        """Raise UserError for what would be unsafe or cannot be."""
        if self.api_key is not None and len(self.api_key) < 8:
            raise UserError("an API key needs at least 8 characters", fix=f"GLMKIT_API_KEY={secrets.token_urlsafe(24)}")
        if self.host not in LOOPBACK and self.api_key is None:
            raise UserError(
                "other machines are served only with a key",
                found=f"--host {self.host}",
                fix=f"GLMKIT_API_KEY={secrets.token_urlsafe(24)} glmkit serve --host {self.host}",
            )
        limits = ("queue", "max_body", "max_prompt", "max_images", "max_steps", "max_pixels")
        for name in (*limits, "deadline"):
            if not getattr(self, name) > 0:
                option = name.replace("_", "-")
                default = getattr(ServerSettings, name)
                raise UserError(f"{option} must be above 0", found=getattr(self, name), fix=f"--{option} {default}")
        if not 0 <= self.port < 65536:
            raise UserError("a port is a number from 0 to 65535", found=self.port, fix="--port 8000")
        for name in self.adapters:
            if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
                what = "the name of an adapter has letters, digits, - and _ only"
                raise UserError(what, found=name, fix="--adapter poster=DIR:0.8")

    @property
    def models(self) -> list[str]:
        """List the ids of the model and of each adapter on it."""
        return [MODEL, *(f"{MODEL}:{name}" for name in self.adapters)]

    @property
    def hosts(self) -> list[str]:
        """List the names in a request's Host header that are served.

        A web page whose name was bound to this machine must not reach a server that asks for no key.
        """
        return ["*"] if self.api_key is not None else ["127.0.0.1", "localhost", "[::1]"]
