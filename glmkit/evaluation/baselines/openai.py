"""A model behind an OpenAI-style images endpoint, by the official client: NAME is MODEL or MODEL@QUALITY.

OPENAI_API_KEY holds the key and OPENAI_BASE_URL another endpoint, as the client reads them. What is temporary (429,
5xx, lost connections) is asked again with growing pauses, or when the server says. There are no seeds: seed k is the
k-th image that was asked for. An answer is bounded in size and time, and no message holds a key.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from glmkit.errors import UserError
from glmkit.evaluation import bounded_http
from glmkit.evaluation.baselines import BaselineDefaults
from glmkit.evaluation.bounded_http import AnswerError
from glmkit.extras import require
from glmkit.hashing import json_sha256
from glmkit.inputs.images import read_image

if TYPE_CHECKING:
    from openai.types import ImagesResponse
    from PIL import Image

    from glmkit.generation.options import InferenceOptions
    from glmkit.records import Request

RETRIES = 8  # pauses of 0.5, 1, 2, 4, 8, 8, ... seconds unless the server names one
MAX_PAUSE = 60.0  # seconds; a server that wants a longer one is asked too early
SECONDS_OF_TRIES = 600.0  # no new try of one image begins later
PLAIN_PATH = re.compile(r"v\d+(alpha|beta)?\d*|[a-z-]{0,20}")  # of an address: names that are no key
MAX_MESSAGE = 300  # letters of what an endpoint says about an error
SHORTEST_SECRET = 6  # letters; a shorter key is a word that stands for none
DALL_E = "dall-e"  # the only models that must be asked for data instead of an address
# Dollars per million tokens, (text in, image out): OpenAI's list prices, as others quoted them in May 2026.
PRICES: Mapping[str, tuple[float, float]] = {"gpt-image-1": (5.0, 40.0), "gpt-image-1.5": (5.0, 32.0)}
PRICES_OF = "May 2026"


class EndpointBaseline:
    """Ask an images endpoint, several requests at a time, and count what it costs."""

    is_local = False
    workers = 4
    defaults = BaselineDefaults(1024, 1024, None, None)

    def __init__(self, name: str) -> None:
        require("openai", "an images endpoint")
        from openai import OpenAI

        if not os.environ.get("OPENAI_API_KEY"):
            fix = "export OPENAI_API_KEY=... (any word for an endpoint that asks for none, named by OPENAI_BASE_URL)"
            raise UserError("there is no key for the images endpoint", found="OPENAI_API_KEY is not set", fix=fix)
        self._model, _, self._quality = name.partition("@")
        try:
            self._secrets = _secrets()
            self._client = OpenAI(
                max_retries=0,
                timeout=bounded_http.SECONDS,
                http_client=bounded_http.client(),
            )
            if not (self._client.api_key.isascii() and self._client.api_key.isprintable()):
                raise ValueError("the key")
        except Exception as error:  # the HTTP client has errors of its own for addresses
            fix = "check OPENAI_BASE_URL and OPENAI_API_KEY for characters that do not belong there"
            raise UserError("the images endpoint has no usable address or key", fix=fix) from error
        self._lock = threading.Lock()
        self._images, self._tokens, self._dollars = 0, 0, 0.0

    def identity(self) -> dict[str, Any]:
        """Name the address without any credentials: of a part of the path that may be one, its hash."""
        address = urlsplit(str(self._client.base_url))
        port = f":{address.port}" if address.port else ""
        path = "/".join(
            part if PLAIN_PATH.fullmatch(part) and part not in self._secrets else json_sha256(part)[:8]
            for part in address.path.split("/")
        )
        return {"endpoint": f"{address.scheme}://{address.hostname}{port}{path}"}

    def prepare(self, device: str, dtype: str, options: InferenceOptions) -> None:
        """Load nothing."""

    def generate(self, request: Request) -> tuple[Image.Image, Mapping[str, str]]:
        """Ask for one image; returns it with the prompt that the model made of the request's."""
        try:
            return self._generate(request)
        except UserError as error:
            raise UserError(error.what, found=error.found and self._masked(error.found), fix=error.fix) from None
        except Exception as error:
            raise RuntimeError(self._masked(error)) from None  # its cause may hold the key

    def _masked(self, text: object) -> str:
        """Cut what an endpoint said, and take out every key."""
        message = str(text)
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."

    def _generate(self, request: Request) -> tuple[Image.Image, Mapping[str, str]]:
        size = f"{request.width}x{request.height}"
        answer = self._ask(request.prompt, size)
        if not answer.data:
            raise RuntimeError("the endpoint answered without an image")
        first = answer.data[0]
        if first.b64_json:
            data = _decoded(first.b64_json)
        elif first.url:
            data = _download(first.url)
        else:
            raise RuntimeError("the endpoint answered without an image")
        about = {"revised_prompt": self._masked(first.revised_prompt)} if first.revised_prompt else {}
        with self._lock:
            self._images += 1
            self._tokens += answer.usage.total_tokens if answer.usage else 0
            self._dollars += price(self._model, self._quality, size, answer) or 0.0
        try:
            return read_image(data, "the endpoint's image"), about
        except UserError as error:  # of this image
            raise RuntimeError(error.what) from error

    def progress_note(self) -> str:
        """Add up the cost of the images that this process has asked for."""
        if self._dollars:
            return f"{self._dollars:.2f} $ (prices of {PRICES_OF})"
        tokens = f"{self._tokens:,} tokens, " if self._tokens else ""
        return f"{tokens}price not known" if self._images else ""

    def _ask(self, prompt: str, size: str) -> ImagesResponse:
        """Ask until there is an answer; UserError for what concerns all images."""
        import openai

        try:
            return self._ask_until_answered(prompt, size)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            fix = "export OPENAI_API_KEY=... with a key of that endpoint"
            raise UserError("the images endpoint refuses the key", found=error.message, fix=fix) from error
        except openai.NotFoundError as error:
            fix = "check the name of the model and OPENAI_BASE_URL (it often ends in /v1)"
            raise UserError(f"the images endpoint has no model {self._model}", found=error.message, fix=fix) from error
        except openai.RateLimitError as error:
            fix = "run the same command later; it continues"
            raise UserError("the images endpoint wants no more requests", found=error.message, fix=fix) from error
        except openai.APITimeoutError:  # a kind of connection error, but the next image may be quicker
            raise
        except openai.APIConnectionError as error:
            fix = "check OPENAI_BASE_URL and the network, then run the same command again; it continues"
            raise UserError("the images endpoint cannot be reached", found=error.message, fix=fix) from error

    def _ask_until_answered(self, prompt: str, size: str) -> ImagesResponse:
        """Ask, and again after a pause while the error is temporary."""
        import openai

        started = time.monotonic()
        for tries in itertools.count():
            try:
                return self._ask_once(prompt, size)
            except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
                if isinstance(error.__cause__, AnswerError):
                    raise error.__cause__ from None
                pause = _pause(error, tries)
                if tries >= RETRIES or time.monotonic() + pause > started + SECONDS_OF_TRIES:
                    raise
                time.sleep(pause)
        raise AssertionError

    def _ask_once(self, prompt: str, size: str) -> ImagesResponse:
        more: dict[str, Any] = {"quality": self._quality} if self._quality else {}
        if self._model.startswith(DALL_E):
            more["response_format"] = "b64_json"
        answer: ImagesResponse = self._client.images.generate(model=self._model, prompt=prompt, size=size, n=1, **more)
        return answer


def _pause(error: Exception, tries: int) -> float:
    """Return the seconds before the next try: what the server says, else more after each."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with suppress(KeyError, ValueError):  # a date is none either
            return min(max(float(headers[name]) / unit, 0.0), MAX_PAUSE)
    return min(0.5 * 2.0**tries, 8.0)


def _secrets() -> list[str]:
    """List the key and the password of the address in every way in which a message may spell them."""
    address = urlsplit(os.environ.get("OPENAI_BASE_URL", ""))
    words = [os.environ["OPENAI_API_KEY"], unquote(address.password or ""), unquote(address.username or "")]
    login = ":".join(reversed(words[1:]))
    spelled = [words[0], words[1], login, *(base64.b64encode(word.encode()).decode() for word in (*words[:2], login))]
    secrets = {form for word in spelled for form in (word, quote(word, safe=""), json.dumps(word)[1:-1])}
    return sorted((secret for secret in secrets if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)


def load(name: str) -> EndpointBaseline:
    """Make the client; UserError without the package or the key."""
    return EndpointBaseline(name)


def price(model: str, quality: str, size: str, answer: ImagesResponse) -> float | None:
    """Calculate the price of one answer in dollars; None when it is not known."""
    if model == "dall-e-3":  # by the image: 4 cents, 4 more for hd, 4 more for a side of 1792
        return 0.04 * (1 + (quality == "hd") + (size != "1024x1024"))
    if model not in PRICES or answer.usage is None:
        return None
    text, image = PRICES[model]
    return float(answer.usage.input_tokens * text + answer.usage.output_tokens * image) / 1e6


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise RuntimeError("the endpoint answered with broken data") from error


def _download(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise RuntimeError(f"the endpoint answered with an address that is none: {url[:80]}")
    with bounded_http.client() as client:
        data: bytes = client.get(url).raise_for_status().content
        return data
