"""Answers as a suite reads them, and what a summary says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from glmkit.evaluation.judges.ask import FILE, Answers
from glmkit.evaluation.judges.messages import JudgeError, spoken
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.suites.shared.base import Counts, Suite
from glmkit.evaluation.suites.shared.questions import PublishedAnswers, QuestionSuite
from glmkit.files import write_jsonl
from glmkit.records import Answer, Generation, Prompt


def judged_counts(suite: QuestionSuite, prompt: Prompt, answers: Answers) -> Counts:
    """Count the answers about one image; JudgeError when one is missing or cannot be read."""
    given = {}
    for message, answer in answers.items():
        if isinstance(answer, JudgeError):
            raise answer
        given[message] = answer
    texts = {message: spoken(answer) for message, answer in given.items()}
    try:
        return suite.judged(prompt, texts) | suite.measured(prompt, given)
    except UnreadableAnswerError as error:
        raise JudgeError(str(error)) from error


def judging(suite: Suite, identity: EngineIdentity | None, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Collect what a summary says about the judge; nothing where there is none."""
    if identity is None or not isinstance(suite, QuestionSuite):
        return {}
    given = [answer for of_image in answers.values() for answer in of_image.values() if isinstance(answer, Answer)]
    texts = []
    for answer in given:
        with suppress(JudgeError):
            texts.append(spoken(answer))
    notes = [note] if (note := suite.note(texts)) else []
    if days := sorted({answer.date for answer in given if answer.date}):
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        notes.append(f"the endpoint's answers are of {span}; a model may change behind its name")
    models = sorted({answer.model for answer in given if answer.model})
    called = f" ({', '.join(models)})" if models else ""
    return {"judge": f"{identity}{called} {suite.asking}", "notes": tuple(notes)}


def published_images(
    folder: Path, prompts: Sequence[Prompt], published: PublishedAnswers
) -> tuple[list[Generation], dict[str, Answers]]:
    """Stand for images of which only answers are known: one per prompt, and an error where no answer is published."""
    images, answers = [], dict[str, Answers]()
    for prompt in prompts:
        name, given = f"{prompt.id}_0", published.get(prompt.id)
        images.append(Generation(name, prompt.id, prompt.prompt, 0, error=None if given else "no published answer"))
        if given:
            answers[name] = {message: Answer("", text) for message, text in given.items()}
    write_jsonl(folder / "images.jsonl", (image.to_dict() for image in images))
    lines = (
        {"image": name, "message": key, "answer": text} for name, of in published.items() for key, text in of.items()
    )
    write_jsonl(folder / FILE, lines)
    return images, answers
