"""Answers to the questions about the images of a run; nothing is asked twice (`result_store`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glmkit.evaluation.asking import ask_all, said
from glmkit.evaluation.judges import engines
from glmkit.evaluation.judges.messages import Inquiry, Judge, JudgeError, Message
from glmkit.evaluation.ocr.lines import EngineIdentity, OcrError, OcrResult
from glmkit.evaluation.result_store import Key, ResultStore
from glmkit.hashing import file_sha256, json_sha256
from glmkit.records import Answer, Generation

FILE = "answers.jsonl"
Answers = dict[str, Answer | JudgeError]  # message id -> what came back


def ask(
    folder: Path,
    images: Sequence[Generation],
    messages: Mapping[str, Sequence[Message]],
    judge: str,
    identity: EngineIdentity,
    lines: Mapping[str, OcrResult],
    condition_images: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Answers]:
    """Map image ids to the answers of a judge (`engines.find`), or to why there is none.

    `messages` maps a prompt id to what is asked about its images, `lines` an image id to what OCR recognized,
    `condition_images` a prompt id to the images that it edits. What any run has asked about the same content is not
    asked again. Every answer is one line of the run's `FILE`, as it came.
    """
    module, location = engines.find(judge)
    inquiries: dict[Key, Inquiry] = {}
    keys: dict[str, dict[str, Key]] = {}
    results: dict[Key, Answer | JudgeError] = {}
    for image in images:
        if image.file is None:
            continue
        sha256 = file_sha256(folder / image.file)
        found = lines.get(image.id, ())
        edited = (condition_images or {}).get(image.prompt_id, ())
        for message in messages[image.prompt_id]:
            condition = Path(edited[0]) if message.needs_condition and edited else None
            detail = message.key if module.IS_KEPT else json_sha256([image.id, message.id])
            if module.IS_KEPT and condition is not None:
                detail = json_sha256([detail, file_sha256(condition)])
            key: Key = (sha256, detail)
            keys.setdefault(image.id, {})[message.id] = key
            if isinstance(found, OcrError):
                results[key] = JudgeError(f"OCR: {found}")
                continue
            inquiries[key] = Inquiry(message, folder / image.file, image.prompt_id, image.seed, found, condition)
    store = ResultStore(folder / FILE, "answers", identity.key, "message", "answer", Answer.to_dict, Answer.from_dict)
    if module.IS_KEPT:
        results |= store.find(inquiries)
    missing = {key: inquiry for key, inquiry in inquiries.items() if key not in results}
    if missing:
        asked: Judge = module.load(location)
        for key, result in ask_all(missing, asked.answer, asked.workers, asked.note, "asking the judge"):
            if isinstance(result, Answer):
                results[key] = result
                if module.IS_KEPT:
                    store.add(key, result)
            else:
                results[key] = result if isinstance(result, JudgeError) else JudgeError(said(result))
    return {name: {message: results[key] for message, key in of_image.items()} for name, of_image in keys.items()}
