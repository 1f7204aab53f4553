"""Servers that speak OpenAI's protocol, by the official client: retries, bounds, and no key in any message.

OPENAI_API_KEY holds the key and OPENAI_BASE_URL another endpoint, as the client reads them. What is temporary (429,
5xx, lost connections) is asked again with growing pauses, or when the server says. An answer is bounded in size and
time (`bounded_http`).
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from glmkit.errors import UserError
from glmkit.evaluation import bounded_http
from glmkit.evaluation.bounded_http import AnswerError
from glmkit.extras import require
from glmkit.hashing import json_sha256

RETRIES = 8  # pauses of 0.5, 1, 2, 4, 8, 8, ... seconds unless the server names one
MAX_PAUSE = 60.0  # seconds; a server that wants a longer one is asked too early
SECONDS_OF_TRIES = 600.0  # no new try of one request begins later
PLAIN_PATH = re.compile(r"v\d+(alpha|beta)?\d*|[a-z-]{0,20}")  # of an address: names that are no key
MAX_MESSAGE = 300  # letters of what an endpoint says about an error
SHORTEST_SECRET = 6  # letters; a shorter key is a word that stands for none

T = TypeVar("T")


def check(what: str) -> None:
    """Raise UserError without the package or the key; `what` is what the endpoint serves, for people."""
    require("openai", f"{_article(what)} {what} endpoint")
    if not os.environ.get("OPENAI_API_KEY"):
        fix = "export OPENAI_API_KEY=... (any word for an endpoint that asks for none, named by OPENAI_BASE_URL)"
        raise UserError(f"there is no key for the {what} endpoint", found="OPENAI_API_KEY is not set", fix=fix)


class Endpoint:
    """Hold the client of one endpoint that serves `what`, like images; several threads may ask at the same time."""

    def __init__(self, what: str) -> None:
        check(what)
        from openai import OpenAI

        self._what = what
        try:
            self._secrets = _secrets()
            self.client = OpenAI(max_retries=0, timeout=bounded_http.SECONDS, http_client=bounded_http.client())
            if not (self.client.api_key.isascii() and self.client.api_key.isprintable()):
                raise ValueError("the key")
        except Exception as error:  # the HTTP client has errors of its own for addresses
            fix = "check OPENAI_BASE_URL and OPENAI_API_KEY for characters that do not belong there"
            raise UserError(f"the {what} endpoint has no usable address or key", fix=fix) from error

    @property
    def address(self) -> str:
        """Return the address without any credentials: of a part of the path that may be one, its hash."""
        address = urlsplit(str(self.client.base_url))
        port = f":{address.port}" if address.port else ""
        path = "/".join(
            part if PLAIN_PATH.fullmatch(part) and part not in self._secrets else json_sha256(part)[:8]
            for part in address.path.split("/")
        )
        return f"{address.scheme}://{address.hostname}{port}{path}"

    def masked(self, text: object) -> str:
        """Cut what an endpoint said, and take out every key."""
        message = str(text)
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."

    @contextmanager
    def masking(self) -> Iterator[None]:
        """Take every key out of what goes wrong in this block: a UserError, or else a RuntimeError."""
        try:
            yield
        except UserError as error:
            raise UserError(error.what, found=error.found and self.masked(error.found), fix=error.fix) from None
        except Exception as error:
            raise RuntimeError(self.masked(error)) from None  # its cause may hold the key

    def ask(self, once: Callable[[Any], T], model: str) -> T:
        """Call `once` with the client until there is an answer; UserError for what concerns all requests."""
        import openai

        what = f"the {self._what} endpoint"
        try:
            return self._ask_until_answered(once)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            fix = "export OPENAI_API_KEY=... with a key of that endpoint"
            raise UserError(f"{what} refuses the key", found=error.message, fix=fix) from error
        except openai.NotFoundError as error:
            fix = "check the name of the model and OPENAI_BASE_URL (it often ends in /v1)"
            raise UserError(f"{what} has no model {model}", found=error.message, fix=fix) from error
        except openai.RateLimitError as error:
            fix = "run the same command later; it continues"
            raise UserError(f"{what} wants no more requests", found=error.message, fix=fix) from error
        except openai.APITimeoutError:  # a kind of connection error, but the next request may be quicker
            raise
        except openai.APIConnectionError as error:
            fix = "check OPENAI_BASE_URL and the network, then run the same command again; it continues"
            raise UserError(f"{what} cannot be reached", found=error.message, fix=fix) from error

    def _ask_until_answered(self, once: Callable[[Any], T]) -> T:
        """Ask, and again after a pause while the error is temporary."""
        import openai

        started = time.monotonic()
        for tries in itertools.count():
            try:
                return once(self.client)
            except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
                if isinstance(error.__cause__, AnswerError):
                    raise error.__cause__ from None
                pause = _pause(error, tries)
                if tries >= RETRIES or time.monotonic() + pause > started + SECONDS_OF_TRIES:
                    raise
                time.sleep(pause)
        raise AssertionError


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


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
