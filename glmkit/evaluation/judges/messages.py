"""What a judge is sent, and what it sends back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from glmkit.evaluation.chat import ChatError, without_thinking
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.hashing import json_sha256
from glmkit.inputs.images import read_image
from glmkit.records import Answer

MAX_TOKENS = 128  # of an answer to one question
LISTED = 20  # of the most likely words that an endpoint is asked for; it knows no other


class JudgeError(Exception):
    """A judge has no answer to one message, or none that can be read."""


@dataclass(frozen=True)
class Message:
    """Ask a judge about one image, in one request.

    `text` is sent as it is, `image_first` before the image or behind it, `system` before both. `questions` are those in
    the text, one or several; `options` are the words for yes and no that the text asks for. `max_tokens` limits the
    answer of a local model. `id` is unique among the messages about an image.

    With `words`, the answer comes with probabilities: of these words, or of the `LISTED` most likely ones.
    `shows_both`: the condition image of an edit stands before the image. `resized`: the image is resized to it.
    """

    id: str
    text: str
    questions: tuple[str, ...]
    options: tuple[str, str] = ("yes", "no")
    system: str = ""
    image_first: bool = True
    max_tokens: int = MAX_TOKENS
    words: tuple[str, ...] = ()
    shows_both: bool = False
    resized: bool = False

    @property
    def key(self) -> str:
        """Name what decides the answer in 16 hexadecimal digits, the images aside."""
        more = [[self.words, self.shows_both, self.resized]] if self.words or self.needs_condition else []
        return json_sha256([self.text, self.options, self.system, self.image_first, self.max_tokens, *more])[:16]

    @property
    def needs_condition(self) -> bool:
        """Tell whether the condition image of the edit is needed."""
        return self.shows_both or self.resized


@dataclass(frozen=True)
class Inquiry:
    """Hold a message about one image file, with what OCR recognized in it where a judge reads that.

    `condition` is the image that was edited, where the message needs it.
    """

    message: Message
    image: Path
    prompt_id: str
    seed: int
    lines: tuple[RecognizedLine, ...] = ()
    condition: Path | None = None

    def images(self) -> list[Path | Image.Image]:
        """List what the judge is shown, in order: files, or an image that had to be resized (bicubic)."""
        if self.condition is None:
            return [self.image]
        shown: Path | Image.Image = self.image
        if self.message.resized:
            size, image = read_image(self.condition).size, read_image(self.image)
            shown = image if image.size == size else image.resize(size)
        return [self.condition, shown] if self.message.shows_both else [shown]


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
    """Return an answer without the thinking before it; JudgeError when it ends inside its thinking, or may do so."""
    try:
        said = without_thinking(answer.text)
    except ChatError as error:
        raise JudgeError(str(error)) from error
    if answer.is_cut and said == answer.text:
        raise JudgeError(f"the answer was cut after {answer.output_tokens} tokens, maybe inside its thinking")
    return said
