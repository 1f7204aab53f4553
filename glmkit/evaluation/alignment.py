"""CLIP alignment of a run: the cosine of each image with its prompt, beside the other scores of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from glmkit.evaluation import stats
from glmkit.evaluation.features.extractors.clip import OpenClip
from glmkit.evaluation.features.run_images import features_by_image
from glmkit.evaluation.metrics import clip as metric
from glmkit.records import Generation, Score, Summary

TEXTS_AT_ONCE = 64
DIGITS = 6  # of a stored cosine; float32 has no more


def add_cosines(clip: OpenClip, folder: Path, images: Sequence[Generation], scores: Sequence[Score]) -> list[Score]:
    """Add the raw cosine to every score; an image that CLIP cannot read gets the error instead."""
    scored = {score.id for score in scores if score.error is None}
    prompts = {image.id: image.prompt for image in images if image.id in scored}
    if not prompts:
        return list(scores)
    features, errors = features_by_image(folder, [image for image in images if image.id in scored], clip)
    text_features = _encode_texts(clip, list(prompts.values()))
    name = metric.name(clip.label, clip.model)
    cosines = {key: round(float(feature @ text_features[prompts[key]]), DIGITS) for key, feature in features.items()}
    return [_with_cosine(score, name, cosines, errors) for score in scores]


def _with_cosine(score: Score, name: str, cosines: Mapping[str, float], errors: Mapping[str, str]) -> Score:
    if score.id in errors:
        return replace(score, recognized_lines=(), counts={}, error=f"CLIP: {errors[score.id]}")
    return replace(score, counts={**score.counts, name: (cosines[score.id], 1)}) if score.id in cosines else score


def _encode_texts(clip: OpenClip, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Map prompts to features D, float64."""
    distinct = list(dict.fromkeys(prompts))
    encoded: dict[str, np.ndarray] = {}
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        batch = distinct[start : start + TEXTS_AT_ONCE]
        features = clip.encode_texts([metric.text(prompt) for prompt in batch]).astype(np.float64)
        encoded.update(zip(batch, features, strict=True))
    return encoded


def summarize(summary: Summary, clip: OpenClip, images: Sequence[Generation], scores: Sequence[Score]) -> Summary:
    """Add the cosine as one more metric, and `alignment`: the model, and what is derived from the cosine."""
    name = metric.name(clip.label, clip.model)
    scored = [score for score in scores if score.error is None]
    texts = {image.prompt_id: metric.text(image.prompt) for image in images}
    prompts = {score.prompt_id for score in scored}
    alignment = {
        "metric": name,
        "model": clip.label,
        "weights_sha256": clip.weights_sha256,
        "text": metric.TEMPLATE,
        "prompts": len(prompts),
        "truncated_prompts": sum(clip.is_truncated(texts[prompt_id]) for prompt_id in prompts),
        "clipscore": _clipscore(scored, name) if clip.model == metric.DEFAULT else None,
    }
    about = metric.about(clip.label, clip.model, clip.weights_sha256)
    return replace(stats.with_metric(summary, scores, name, about), alignment=alignment)


def _clipscore(scored: Sequence[Score], name: str) -> dict[str, float | None]:
    """Average 2.5 max(cosine, 0), the scale of CLIPScore and CVTG-2K, with its interval."""
    derived = [replace(score, counts={name: (metric.clipscore(score.counts[name][0]), 1)}) for score in scored]
    return _pool(derived, name)


def _pool(scores: Sequence[Score], name: str) -> dict[str, float | None]:
    estimate = stats.estimate(scores, name)
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
