"""A model behind an OpenAI-style chat endpoint: LOCATION is MODEL or MODEL,OPTION=VALUE,... (`evaluation.chat`).

The image is sent as its file is, with its true type.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from glmkit.evaluation import endpoints
from glmkit.evaluation.chat import ChatError, ChatModel
from glmkit.evaluation.judges.messages import LISTED, Inquiry, JudgeError, Message
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.inputs.images import opened_image, read_image
from glmkit.records import Answer

ABOUT = "a chat endpoint, OPENAI_BASE_URL: openai:MODEL"
READS_TEXT = False
IS_KEPT = True
SENT_AS_THEY_ARE = ("image/png", "image/jpeg", "image/webp")  # other files are sent as PNG


class EndpointJudge:
    """Ask a chat endpoint, several inquiries at a time."""

    workers = 8

    def __init__(self, location: str) -> None:
        self._chat = ChatModel("judge", location)

    @property
    def name(self) -> str:
        """Return the model with its address and options."""
        return self._chat.name

    def answer(self, inquiry: Inquiry) -> Answer:
        """Ask once, and again while the error is temporary; the question is never changed."""
        with self._chat.endpoint.masking():
            return self._answer(inquiry.message, inquiry.images())

    def _answer(self, message: Message, images: Sequence[Path | Image.Image]) -> Answer:
        try:
            choice, model, tokens = self._chat.ask(self._request(message, images))
        except ChatError as error:
            raise JudgeError(str(error)) from error
        return Answer(
            message.text,
            choice.message.content,
            model,
            *tokens,
            _probabilities(choice) if message.words else (),
            date=datetime.now(UTC).date().isoformat(),
            is_cut=choice.finish_reason == "length" and not message.words and self._chat.may_think,
        )

    def _request(self, message: Message, images: Sequence[Path | Image.Image]) -> dict[str, Any]:
        shown = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
        said = {"type": "text", "text": message.text}
        system = [{"role": "system", "content": message.system}] if message.system else []
        content = [*shown, said] if message.image_first else [said, *shown]
        request = self._chat.request([*system, {"role": "user", "content": content}])
        more = {"logprobs": True, "top_logprobs": LISTED, "max_tokens": message.max_tokens} if message.words else {}
        return {**more, **request}

    def note(self) -> str:
        """Add up tokens and cost of what this process has asked."""
        return self._chat.note()


def check() -> None:
    """Raise UserError without the package or the key."""
    endpoints.check("judge")


def identity(location: str) -> EngineIdentity:
    """Name model, address and decoding; a model may change behind its name: each answer keeps what it calls itself."""
    return EngineIdentity(load(location).name)


def load(location: str) -> EndpointJudge:
    """Make the client; UserError without the package or the key, or for an unknown option."""
    return EndpointJudge(location)


def _probabilities(choice: Any) -> tuple[dict[str, float], ...]:
    """Read the most likely words of each token with their probabilities, in the endpoint's order."""
    listed = getattr(getattr(choice, "logprobs", None), "content", None)
    if not listed:
        raise JudgeError("the endpoint gives no probabilities")
    return tuple({one.token: math.exp(one.logprob) for one in token.top_logprobs} for token in listed)


def _data_url(source: Path | Image.Image) -> str:
    """Encode an image file with its true type, and any other image as PNG."""
    kind, data = "", b""
    if isinstance(source, Path):
        with opened_image(source) as image:
            kind, data = Image.MIME.get(image.format or "", ""), source.read_bytes()
    if kind not in SENT_AS_THEY_ARE:
        stream = io.BytesIO()
        (read_image(source) if isinstance(source, Path) else source).save(stream, format="PNG")
        kind, data = "image/png", stream.getvalue()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
