"""Answers to the questions about the images of a run; nothing is asked twice (`result_store`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from glmkit.errors import UserError, first_line
from glmkit.evaluation.judges import engines
from glmkit.evaluation.judges.messages import Inquiry, Judge, JudgeError, Message
from glmkit.evaluation.ocr.lines import EngineIdentity, OcrError, OcrResult
from glmkit.evaluation.result_store import Key, ResultStore
from glmkit.hashing import file_sha256, json_sha256
from glmkit.progress import progress_bars
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
) -> dict[str, Answers]:
    """Map image ids to the answers of a judge (`engines.find`), or to why there is none.

    `messages` maps a prompt id to what is asked about its images, `lines` an image id to what OCR recognized. What any
    run has asked about the same content is not asked again. Every answer is one line of the run's `FILE`, as it came.
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
        for message in messages[image.prompt_id]:
            detail = message.key if module.IS_KEPT else json_sha256([image.id, message.id])
            key: Key = (sha256, detail)
            keys.setdefault(image.id, {})[message.id] = key
            if isinstance(found, OcrError):
                results[key] = JudgeError(f"OCR: {found}")
                continue
            inquiries[key] = Inquiry(message, folder / image.file, image.prompt_id, image.seed, found)
    store = ResultStore(folder / FILE, "answers", identity.key, "message", "answer", Answer.to_dict, Answer.from_dict)
    if module.IS_KEPT:
        results |= store.find(inquiries)
    missing = {key: inquiry for key, inquiry in inquiries.items() if key not in results}
    if missing:
        for key, result in _ask_all(module.load(location), missing):
            results[key] = result
            if module.IS_KEPT and isinstance(result, Answer):
                store.add(key, result)
    return {name: {message: results[key] for message, key in of_image.items()} for name, of_image in keys.items()}


def _ask_all(judge: Judge, inquiries: Mapping[Key, Inquiry]) -> Iterator[tuple[Key, Answer | JudgeError]]:
    """Ask, several at a time, with a progress bar, the rate and the cost.

    When the run ends early, inquiries that are under way are still finished and kept, for some have been paid for.
    """
    stop, started = threading.Event(), time.monotonic()

    def answer(inquiry: Inquiry) -> Answer | JudgeError | None:
        if stop.is_set():
            return None
        try:
            return judge.answer(inquiry)
        except UserError:
            stop.set()  # before another worker takes an inquiry
            raise
        except JudgeError as error:
            return error
        except Exception as error:  # whatever went wrong with this inquiry is its error
            return JudgeError(str(error) if type(error) is RuntimeError else first_line(error))

    failed: UserError | None = None
    pool = ThreadPoolExecutor(judge.workers)
    try:
        with progress_bars() as progress:
            task = progress.add_task("asking the judge", total=len(inquiries))
            futures = {pool.submit(answer, inquiry): key for key, inquiry in inquiries.items()}
            for done, future in enumerate(as_completed(futures), start=1):
                try:
                    result = future.result()
                except UserError as error:
                    failed = failed or error
                    continue
                if result is not None:
                    rate = f"{done * 60 / max(time.monotonic() - started, 1e-3):.1f} per minute"
                    progress.update(task, advance=1, note=" · ".join(filter(None, (rate, judge.note()))))
                    yield futures[future], result
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    if failed is not None:
        raise failed
