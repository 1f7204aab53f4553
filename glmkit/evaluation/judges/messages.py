"""What a judge is sent, and what it sends back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from glmkit.evaluation.chat import ChatError, without_thinking
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.hashing import json_sha256
from glmkit.records import Answer

MAX_TOKENS = 128  # of an answer to one question


class JudgeError(Exception):
    """A judge has no answer to one message, or none that can be read."""


@dataclass(frozen=True)
class Message:
    """Ask a judge about one image, in one request.

    `text` is sent as it is, `image_first` before the image or behind it, `system` before both. `questions` are those in
    the text, one or several; `options` are the words for yes and no that the text asks for. `max_tokens` limits the
    answer of a local model. `id` is unique among the messages about an image.
    """

    id: str
    text: str
    questions: tuple[str, ...]
    options: tuple[str, str] = ("yes", "no")
    system: str = ""
    image_first: bool = True
    max_tokens: int = MAX_TOKENS

    @property
    def key(self) -> str:
        """Name what decides the answer in 16 hexadecimal digits."""
        return json_sha256([self.text, self.options, self.system, self.image_first, self.max_tokens])[:16]


@dataclass(frozen=True)
class Inquiry:
    """Hold a message about one image file, with what OCR recognized in it where a judge reads that."""

    message: Message
    image: Path
    prompt_id: str
    seed: int
    lines: tuple[RecognizedLine, ...] = ()


class Judge(Protocol):
    """Answer inquiries. `workers`: how many it takes at the same time."""

    workers: int

    def answer(self, inquiry: Inquiry) -> Answer:
        """Answer one inquiry; called by `workers` threads.

        A UserError concerns all inquiries and ends the run; any other exception is the error of this one.
        """
        ...

    def note(self) -> str:
        """Say what to show beside the progress, like the cost; may be empty."""
        ...


def spoken(answer: Answer) -> str:
    """Return an answer without the thinking before it; JudgeError when it ends inside its thinking."""
    try:
        return without_thinking(answer.text)
    except ChatError as error:
        raise JudgeError(str(error)) from error
