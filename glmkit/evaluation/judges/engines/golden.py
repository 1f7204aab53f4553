"""Answers that a file holds: those of a judge that ran elsewhere, of people, or of a test. LOCATION is the file.

One record per answer: {"prompt_id", "question_id", "answer"}, with "image" (the seed, 0 when absent) and "source"
(who answered). `question_id` is the id of a message: the number of a question that is asked alone, "all" where all are
asked together. `answer` is raw text, as the judge wrote it; null, or no record, is an error of that question. Suites
that score probabilities need "probabilities" beside it: for each token of the answer, {word: probability}, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Inquiry, JudgeError
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.hashing import file_sha256
from glmkit.inputs.records import read_records
from glmkit.records import Answer
from glmkit.shapes import check_shape

ABOUT = "answers in a file: golden:FILE.jsonl"
READS_TEXT = False
IS_KEPT = False


class GoldenRecord(TypedDict):
    """One record of the file."""

    prompt_id: str
    question_id: str
    answer: str | None


class GoldenJudge:
    """Look answers up."""

    workers = 1

    def __init__(self, path: Path) -> None:
        self.answers: dict[tuple[str, int, str], Answer | None] = {}
        self.sources: set[str] = set()
        for number, record in enumerate(read_records(path), start=1):
            where = f"{path}, record {number}"
            check_shape(record, GoldenRecord, where, fix='{"prompt_id": "7", "question_id": "1", "answer": "yes"}')
            image = record.get("image", 0)
            check_shape(image, int, where, "image", fix='the seed of the image, like "image": 0')
            key = (record["prompt_id"], image, record["question_id"])
            if key in self.answers:
                raise UserError(f"{where} answers a question a second time", found=key, fix="keep one of the two")
            listed = record.get("probabilities", [])
            check_shape(listed, list[Mapping[str, float]], where, "probabilities", fix='[{"Yes": 0.9, "No": 0.1}]')
            text = record["answer"]
            self.answers[key] = None if text is None else Answer("", text, probabilities=tuple(listed))
            if source := record.get("source"):
                self.sources.add(str(source))

    def answer(self, inquiry: Inquiry) -> Answer:
        """Give the answer of the file; JudgeError when there is none."""
        answer = self.answers.get((inquiry.prompt_id, inquiry.seed, inquiry.message.id))
        if answer is None:
            raise JudgeError(f"the file has no answer to question {inquiry.message.id}")
        return replace(answer, message=inquiry.message.text)

    def note(self) -> str:
        """Have nothing to say."""
        return ""


def check() -> None:
    """Need nothing."""


def identity(location: str) -> EngineIdentity:
    """Name the sources and the file's hash; UserError for a file that cannot be read."""
    judge = load(location)
    sources = ", ".join(sorted(judge.sources)) or "a file"
    return EngineIdentity(f"answers of {sources}", {Path(location).name: file_sha256(Path(location))})


def load(location: str) -> GoldenJudge:
    """Read the file; UserError names what is wrong in it."""
    if not location:
        raise UserError("the judge golden needs a file with answers", fix="--judge golden:FILE.jsonl")
    return GoldenJudge(Path(location))
