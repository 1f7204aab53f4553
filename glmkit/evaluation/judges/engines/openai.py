"""A model behind an OpenAI-style chat endpoint: LOCATION is MODEL or MODEL,OPTION=VALUE,...

Options: `temperature` and `seed` (0 unless given; `none` leaves them out, for models that refuse them), `max_tokens`
(none unless given), `thinking` (`off` asks servers like vLLM to answer without). Key, address and retries:
`evaluation.endpoints`. The image is sent as its file is, with its true type.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from glmkit.errors import UserError, unknown
from glmkit.evaluation import endpoints
from glmkit.evaluation.endpoints import Endpoint
from glmkit.evaluation.judges.messages import Inquiry, JudgeError, Message
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.inputs.images import opened_image, read_image
from glmkit.records import Answer

ABOUT = "a chat endpoint, OPENAI_BASE_URL: openai:MODEL"
READS_TEXT = False
IS_KEPT = True
SENT_AS_THEY_ARE = ("image/png", "image/jpeg", "image/webp")  # other files are sent as PNG
OPTIONS: Mapping[str, Callable[[str], object]] = {
    "temperature": float,
    "seed": int,
    "max_tokens": int,
    "thinking": {"off": False, "on": True}.__getitem__,
}
DEFAULTS: Mapping[str, object] = {"temperature": 0.0, "seed": 0}
# Dollars per million tokens, (in, out): OpenAI's list prices.
PRICES: Mapping[str, tuple[float, float]] = {"gpt-4o": (2.5, 10.0), "gpt-4o-mini": (0.15, 0.6), "gpt-4.1": (2.0, 8.0)}
PRICES_OF = "2025"


class EndpointJudge:
    """Ask a chat endpoint, several inquiries at a time, and count what it costs."""

    workers = 8

    def __init__(self, location: str) -> None:
        self.model, self.options = _parse(location)
        self._endpoint = Endpoint("judge")
        self._lock = threading.Lock()
        self._tokens = [0, 0]  # in, out

    @property
    def name(self) -> str:
        """The model with its address and options."""
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"{self.model} at {self._endpoint.address}" + (f", {options}" if options else "")

    def answer(self, inquiry: Inquiry) -> Answer:
        """Ask once, and again while the error is temporary; the question is never changed."""
        with self._endpoint.masking():
            return self._answer(inquiry.message, inquiry.image)

    def _answer(self, message: Message, image: Path) -> Answer:
        request = self._request(message, image)
        reply = self._endpoint.ask(lambda client: client.chat.completions.create(**request), self.model)
        choice = next(iter(getattr(reply, "choices", None) or ()), None)
        if choice is None:
            raise JudgeError("the endpoint's answer is no chat completion")
        usage = getattr(reply, "usage", None)
        tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
        with self._lock:
            self._tokens = [total + new for total, new in zip(self._tokens, tokens, strict=True)]
        if refusal := getattr(choice.message, "refusal", None):
            raise JudgeError(f"the judge refuses: {self._endpoint.masked(refusal)}")
        text = choice.message.content
        if not text and choice.finish_reason == "length":
            raise JudgeError("the answer ends inside its thinking")
        if not isinstance(text, str):
            raise JudgeError(f"the answer holds no text (finish reason {choice.finish_reason})")
        return Answer(message.text, text, str(reply.model or ""), *tokens)

    def _request(self, message: Message, image: Path) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(image)}},
            {"type": "text", "text": message.text},
        ]
        system = [{"role": "system", "content": message.system}] if message.system else []
        content = parts if message.image_first else parts[::-1]
        request: dict[str, Any] = {"model": self.model, "messages": [*system, {"role": "user", "content": content}]}
        options = dict(self.options)
        if "thinking" in options:
            request["extra_body"] = {"chat_template_kwargs": {"enable_thinking": options.pop("thinking")}}
        return {**request, **options}

    def note(self) -> str:
        """Add up tokens and cost of what this process has asked."""
        if not any(self._tokens):
            return ""
        tokens = f"{self._tokens[0]:,} + {self._tokens[1]:,} tokens"
        if self.model not in PRICES:
            return f"{tokens}, price not known"
        dollars = sum(count * price for count, price in zip(self._tokens, PRICES[self.model], strict=True)) / 1e6
        return f"{tokens}, {dollars:.2f} $ (prices of {PRICES_OF})"


def check() -> None:
    """Raise UserError without the package or the key."""
    endpoints.check("judge")


def identity(location: str) -> EngineIdentity:
    """Name model, address and decoding; a model may change behind its name: each answer keeps what it calls itself."""
    return EngineIdentity(load(location).name)


def load(location: str) -> EndpointJudge:
    """Make the client; UserError without the package or the key, or for an unknown option."""
    return EndpointJudge(location)


def _parse(location: str) -> tuple[str, dict[str, object]]:
    """Split MODEL,OPTION=VALUE,... into the model and what is sent beside it."""
    model, *given = location.split(",")
    if not model:
        raise UserError("the judge openai names no model", fix="--judge openai:MODEL")
    options = dict(DEFAULTS)
    for option in given:
        name, _, value = option.partition("=")
        if name not in OPTIONS:
            raise unknown("option of the judge openai", name, OPTIONS)
        if value == "none":
            options.pop(name, None)
            continue
        try:
            options[name] = OPTIONS[name](value)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"the judge openai cannot use {name}={value}", fix=f"{name}=none, or another value"
            ) from error
    return model, options


def _data_url(path: Path) -> str:
    """Encode an image file with its true type."""
    with opened_image(path) as image:
        kind = Image.MIME.get(image.format or "")
    data = path.read_bytes()
    if kind not in SENT_AS_THEY_ARE:
        stream = io.BytesIO()
        read_image(path).save(stream, format="PNG")
        kind, data = "image/png", stream.getvalue()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
