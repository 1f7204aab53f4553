"""What suites have in common whose images are judged by questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.evaluation.suites.shared.base import Counts, Suite
from glmkit.records import Answer, Prompt

PublishedAnswers = Mapping[str, Mapping[str, str]]  # prompt id -> message id -> what a judge answered


class QuestionSuite(Suite):
    """Ask a judge about each image. `asking` names the template of its messages and how answers are read.

    `judges` are those that give what the suite needs, such as probabilities; empty: any.

    `official` names the benchmark's own judge. But for ImgEdit-Bench it is none that glmkit can run as the benchmark
    does, or it is asked in other words, so that no score of these suites is official. Suites of ours have none.
    """

    asking: str
    judges: tuple[str, ...] = ()
    reads_text = False

    @abstractmethod
    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Put together what a judge is sent about each image of a prompt."""

    @abstractmethod
    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Score one image by the answers (message id -> text) to all messages.

        UnreadableAnswerError when the benchmark has no score for such answers.
        """

    def measured(self, _prompt: Prompt, _answers: Mapping[str, Answer]) -> Counts:
        """Score one image by the probabilities of the answers, unless the suite has none but texts."""
        return {}

    def counts(self, _prompt: Prompt, _lines: Sequence[RecognizedLine], _image: Path) -> Counts:
        """Count nothing in recognized lines, unless the suite has expected texts, too."""
        return {}

    def published_answers(self, folder: Path, _prompts: Sequence[Prompt], _files: Sequence[Path]) -> PublishedAnswers:
        """Read the answers that a benchmark publishes about a model's images; UserError when it publishes none."""
        raise UserError(
            "this benchmark publishes no answers", found=f"--answers {folder}", fix="--images DIR, or --model"
        )

    def note(self, _answers: Sequence[str]) -> str:
        """Say what must be known about how these answers were read; "" for nothing."""
        return ""


def exact_note(answers: Sequence[str], yes: str, no: str, fix: str = "") -> str:
    """Say how many answers mean yes in a form that a benchmark does not count."""
    other = [answer for answer in answers if answer not in (yes, no)]
    if not other:
        return ""
    return (
        f"{len(other)} of {len(answers)} answers are neither {yes!r} nor {no!r} letter by letter, such as "
        f"{other[0][:40]!r}; like the benchmark's own code, this counts them as no{fix}"
    )
