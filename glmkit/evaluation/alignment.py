"""CLIP alignment of a run: the cosine of each image with its prompt, beside the other scores of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from glmkit.evaluation import stats
from glmkit.evaluation.features.extractors.clip import Clip
from glmkit.evaluation.features.store import collect
from glmkit.evaluation.metrics import clip as metric
from glmkit.evaluation.reference_sets.sources import Images
from glmkit.records import Generation, Score, Summary

TEXTS = 64  # that are encoded at once
DIGITS = 6  # of a stored cosine; float32 has no more


def align(clip: Clip, folder: Path, rows: Sequence[Generation], scores: Sequence[Score]) -> list[Score]:
    """Add the raw cosine to every scored row; an image that CLIP cannot read becomes a row with the error."""
    scored = {score.id for score in scores if score.error is None}
    generations = {row.id: row for row in rows if row.id in scored}
    if not generations:
        return list(scores)
    images = Images(folder, tuple(generations.values()))
    stored = collect(images, clip, images.cache(clip), unique=False, title=clip.label)
    texts = _texts(clip, [row.prompt for row in generations.values()])
    read = {row["key"]: row["index"] for row in stored.rows() if "index" in row}
    lost = {row["key"]: row["error"] for row in stored.rows() if "error" in row}
    features = stored.take(np.array(list(read.values()))).astype(np.float64)
    name = metric.name(clip.label, clip.model)
    found = {
        key: round(float(feature @ texts[generations[key].prompt]), DIGITS)
        for key, feature in zip(read, features, strict=True)
    }
    return [_with(score, name, found, lost) for score in scores]


def _with(score: Score, name: str, found: Mapping[str, float], lost: Mapping[str, str]) -> Score:
    if score.id in lost:
        return replace(score, recognized_lines=(), counts={}, error=f"CLIP: {lost[score.id]}")
    return replace(score, counts={**score.counts, name: (found[score.id], 1)}) if score.id in found else score


def _texts(clip: Clip, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Prompt -> features D, float64."""
    distinct = list(dict.fromkeys(prompts))
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(distinct), TEXTS):
        some = distinct[start : start + TEXTS]
        vectors = clip.texts([metric.text(prompt) for prompt in some]).astype(np.float64)
        found.update(zip(some, vectors, strict=True))
    return found


def summarised(summary: Summary, clip: Clip, rows: Sequence[Generation], scores: Sequence[Score]) -> Summary:
    """The summary with the cosine as one more metric, and with `alignment`: the model, and what is derived from it."""
    name = metric.name(clip.label, clip.model)
    scored = [score for score in scores if score.error is None]
    splits = {
        split: {**part, "scores": {**part["scores"], name: _value([s for s in scored if s.split == split], name)}}
        for split, part in summary.splits.items()
    }
    prompts = {row.prompt_id: metric.text(row.prompt) for row in rows}
    used = {score.prompt_id for score in scored}
    alignment = {
        "metric": name,
        "model": clip.label,
        "weights_sha256": clip.weights_sha256,
        "text": metric.TEMPLATE,
        "prompts": len(used),
        "truncated_prompts": sum(clip.is_truncated(prompts[prompt_id]) for prompt_id in used),
        "clipscore": _clipscore(scored, name) if clip.model == metric.DEFAULT else None,
    }
    return replace(
        summary,
        scores={**summary.scores, name: _value(scored, name)},
        splits=splits,
        metrics={**summary.metrics, name: metric.about(clip.label, clip.model, clip.weights_sha256)},
        alignment=alignment,
    )


def _clipscore(scored: Sequence[Score], name: str) -> dict[str, float | None]:
    """Mean and interval of 2.5 max(cosine, 0), the scale of CLIPScore and CVTG-2K."""
    derived = [replace(score, counts={name: (metric.clipscore(score.counts[name][0]), 1)}) for score in scored]
    return _value(derived, name)


def _value(rows: Sequence[Score], name: str) -> dict[str, float | None]:
    estimate = stats.estimate(rows, name)
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
