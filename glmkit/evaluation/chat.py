"""A model behind an OpenAI-style chat endpoint, named MODEL or MODEL,OPTION=VALUE,...; it counts what it costs.

Options: `temperature` and `seed` (0 unless given; `none` leaves them out, for models that refuse them), `max_tokens`
(none unless given), `thinking` (`off` asks servers like vLLM to answer without). Key, address and retries:
`evaluation.endpoints`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glmkit.errors import UserError, unknown
from glmkit.evaluation.endpoints import Endpoint


def positive(text: str) -> int:
    """Read a whole number above 0; ValueError for any other."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


SWITCH: Callable[[str], object] = {"off": False, "on": True}.__getitem__
OPTIONS: Mapping[str, Callable[[str], object]] = {
    "temperature": float,
    "seed": int,
    "max_tokens": positive,
    "thinking": SWITCH,
}
DEFAULTS: Mapping[str, object] = {"temperature": 0.0, "seed": 0}
# Dollars per million tokens, (in, out): OpenAI's list prices.
PRICES: Mapping[str, tuple[float, float]] = {"gpt-4o": (2.5, 10.0), "gpt-4o-mini": (0.15, 0.6), "gpt-4.1": (2.0, 8.0)}
PRICES_OF = "2025"
_THINKING = re.compile(r"<think(?:ing)?>")
_THOUGHT = re.compile(r".*</think(?:ing)?>", re.DOTALL)


class ChatError(Exception):
    """A chat model has no answer, or none that can be read."""


class ChatModel:
    """Ask one model of the endpoint that serves as `what`, like a judge; several threads may ask at the same time."""

    def __init__(self, what: str, location: str) -> None:
        self.model, options = named_options(
            f"{what} endpoint", location, OPTIONS, "a name behind the colon, like gpt-4o"
        )
        self.options = {name: value for name, value in {**DEFAULTS, **options}.items() if value is not None}
        self.endpoint = Endpoint(what)
        self._what = what
        self._lock = threading.Lock()
        self._tokens = [0, 0]  # in, out

    @property
    def name(self) -> str:
        """Return the model with its address and options."""
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"{self.model} at {self.endpoint.address}" + (f", {options}" if options else "")

    @property
    def may_think(self) -> bool:
        """Tell whether an answer may begin with thinking, for all that is sent."""
        return self.options.get("thinking") is not False

    def request(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Put together what is sent: the messages with model and options."""
        request: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        options = dict(self.options)
        if "thinking" in options:
            request["extra_body"] = {"chat_template_kwargs": {"enable_thinking": options.pop("thinking")}}
        return {**request, **options}

    def ask(self, request: Mapping[str, Any]) -> tuple[Any, str, tuple[int, int]]:
        """Ask once, and again while the error is temporary; the request is never changed.

        Returns the choice of the answer, whose message holds a text, what the model calls itself, with the fingerprint
        of its server where there is one, and the tokens in and out. ChatError for an answer without a text.
        """
        reply = self.endpoint.ask(lambda client: client.chat.completions.create(**request), self.model)
        choice = next(iter(getattr(reply, "choices", None) or ()), None)
        if choice is None:
            raise ChatError("the endpoint's answer is no chat completion")
        usage = getattr(reply, "usage", None)
        tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
        with self._lock:
            self._tokens = [total + new for total, new in zip(self._tokens, tokens, strict=True)]
        if refusal := getattr(choice.message, "refusal", None):
            raise ChatError(f"the {self._what} refuses: {self.endpoint.masked(refusal)}")
        text = choice.message.content
        if not text and choice.finish_reason == "length":
            raise ChatError("the answer ends inside its thinking")
        if not isinstance(text, str):
            raise ChatError(f"the answer holds no text (finish reason {choice.finish_reason})")
        model = " ".join(filter(None, (reply.model, getattr(reply, "system_fingerprint", None))))
        return choice, model, tokens

    def note(self) -> str:
        """Add up tokens and cost of what this process has asked."""
        if not any(self._tokens):
            return ""
        tokens = f"{self._tokens[0]:,} + {self._tokens[1]:,} tokens"
        if self.model not in PRICES:
            return f"{tokens}, price not known"
        dollars = sum(count * price for count, price in zip(self._tokens, PRICES[self.model], strict=True)) / 1e6
        return f"{tokens}, {dollars:.2f} $ (prices of {PRICES_OF})"


def without_thinking(text: str) -> str:
    """Return an answer without the thinking before it; ChatError when it ends inside its thinking."""
    said = _THOUGHT.sub("", text, count=1)
    if _THINKING.search(said):
        raise ChatError("the answer ends inside its thinking")
    return said if said == text else said.strip()


def named_options(
    what: str, location: str, known: Mapping[str, Callable[[str], object]], fix: str
) -> tuple[str, dict[str, object]]:
    """Split NAME,OPTION=VALUE,... into the name and the `known` options, None for the value `none`.

    UserError for anything else; `what` is who has them, for people, and `fix` names one.
    """
    name, *given = location.split(",")
    if not name:
        raise UserError(f"the {what} names no model", fix=fix)
    options: dict[str, object] = {}
    for one in given:
        option, _, value = one.partition("=")
        if option not in known:
            raise unknown(f"option of the {what}", option, known)
        try:
            options[option] = None if value == "none" else known[option](value)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"the {what} cannot use {option}={value}", fix=f"{option}=none, or another value"
            ) from error
    return name, options
