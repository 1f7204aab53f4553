"""Learned scores of the images of a run, beside its other scores; nothing is scored twice (`result_store`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glmkit.errors import first_line
from glmkit.evaluation import stats
from glmkit.evaluation.result_store import Key, ResultStore
from glmkit.evaluation.scorers import Scorer
from glmkit.hashing import file_sha256
from glmkit.inputs.images import read_image
from glmkit.progress import progress_bars
from glmkit.records import Generation, Score, Summary

FILE = "preference.jsonl"
DIGITS = 6  # of a stored score


def add_scores(
    scorers: Sequence[Scorer], folder: Path, images: Sequence[Generation], scores: Sequence[Score]
) -> list[Score]:
    """Add every learned score to the scored images; one that cannot be read gets the error instead.

    What an image is compared with is the prompt as it was written, before a language model rewrote it.
    """
    after = list(scores)
    for scorer in scorers:
        named = {image.id: image for image in images}
        scored = [named[score.id] for score in after if score.error is None]
        values = _values(scorer, folder, scored)
        after = [_with_value(score, scorer.metric, values.get(score.id)) for score in after]
    return after


def _values(scorer: Scorer, folder: Path, images: Sequence[Generation]) -> dict[str, float | str]:
    """Map ids to scores, or to why there is none."""
    store = ResultStore(folder / FILE, "preference", scorer.identity.key, "prompt", "score", float, float)
    keys: dict[str, Key] = {}
    for image in images:
        prompt = image.prompt if scorer.most_tokens else ""
        digest = hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()[:16]
        keys[image.id] = (file_sha256(folder / str(image.file)), digest)
    values: dict[Key, float | str] = {**store.find(keys.values())}
    missing = {keys[image.id]: image for image in images if keys[image.id] not in values}
    if missing:
        with progress_bars() as progress:
            for key, image in progress.track(missing.items(), len(missing), description=scorer.metric):
                try:
                    value = scorer.score(read_image(folder / str(image.file)), image.prompt)
                    if not math.isfinite(value):
                        raise ValueError("the score is no number")
                except Exception as error:  # of this image
                    values[key] = first_line(error)
                    continue
                values[key] = round(value, DIGITS)
                store.add(key, round(value, DIGITS))
    return {name: values[key] for name, key in keys.items()}


def _with_value(score: Score, metric: str, value: float | str | None) -> Score:
    if value is None:
        return score
    if isinstance(value, str):
        return replace(score, recognized_lines=(), counts={}, error=f"{metric}: {value}")
    return replace(score, counts={**score.counts, metric: (value, 1)})


def summarize(
    summary: Summary, scorers: Sequence[Scorer], images: Sequence[Generation], scores: Sequence[Score]
) -> Summary:
    """Add the metrics, and a note for each scorer that does not read all of the prompts."""
    scored = {score.prompt_id for score in scores if score.error is None}
    prompts = {image.prompt_id: image.prompt for image in images if image.prompt_id in scored}
    for scorer in scorers:
        about = {"direction": "higher", "definition": f"{scorer.definition} Weights: {scorer.identity}."}
        summary = stats.with_metric(summary, scores, scorer.metric, about)
        cut = sum(scorer.count_tokens(prompt) > scorer.most_tokens for prompt in prompts.values())
        if cut:
            note = f"{scorer.metric} reads {scorer.most_tokens} tokens; {cut} of {len(prompts)} prompts are longer"
            summary = replace(summary, notes=(*summary.notes, note))
    return summary
