"""Answers of servers that may send anything: bounded in size and time, and never unpacked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

MAX_BYTES = 1 << 28  # no image is larger
SECONDS = 300.0  # that one answer may take


class AnswerError(Exception):
    """An answer is too long, takes too long, or is packed; asking again would not help."""


def client() -> Any:
    """Make the HTTP client of the package openai; an answer beyond the bounds ends in AnswerError."""
    from openai import DefaultHttpxClient

    headers = {"Accept-Encoding": "identity"}
    return DefaultHttpxClient(timeout=SECONDS, headers=headers, event_hooks={"response": [_bound]})


def _bound(response: Any) -> None:
    """Let the body of a response be read within the bounds only; called before it is read."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise AnswerError("the answer is compressed, which was not asked for")
    stream, deadline = response.stream, time.monotonic() + SECONDS

    class Bounded(type(stream)):  # type: ignore[misc]  # the client asks for its own class
        def __init__(self) -> None:
            """Hold nothing of its own."""

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in stream:
                size += len(chunk)
                if size > MAX_BYTES:
                    raise AnswerError(f"the answer is longer than {MAX_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise AnswerError(f"the answer took longer than {SECONDS:g} s")
                yield chunk

        def close(self) -> None:
            stream.close()

    response.stream = Bounded()
