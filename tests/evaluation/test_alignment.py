"""CLIP alignment of a run: raw cosines beside the other scores, intervals, truncation, the derived scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
from PIL import Image

from glmkit.evaluation import stats
from glmkit.evaluation.alignment import add_cosines, summarize
from glmkit.evaluation.features.extractors.clip import OpenClip
from glmkit.evaluation.metrics import clip as metric
from glmkit.records import Generation, Score, Summary

PROMPTS = {"a": "a red fox", "b": "an owl", "c": "a very long text " * 40}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    return OpenClip(str(tiny_clip.build(tmp_path_factory.mktemp("clip") / "tiny")), "cpu")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Generation], list[Score]]:
    """Two images per prompt; one was not generated, OCR failed on one, and CLIP will on another."""
    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    rows, scores = [], []
    for name, prompt in PROMPTS.items():
        for seed in range(2):
            key = f"{name}_{seed}"
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{key}.png")
            rows.append(Generation(key, name, prompt, seed, f"{key}.png"))
            scores.append(Score(key, name, seed, "s1" if name == "a" else "s2", "en", (), counts={"ned": (1, 2)}))
    rows[1], scores[1] = replace(rows[1], file=None, error="lost"), replace(scores[1], counts={}, error="lost")
    scores[3] = replace(scores[3], counts={}, error="OCR: failed")
    (tmp_path / "c_1.png").write_bytes(b"broken")
    return tmp_path, rows, scores


def empty_summary() -> Summary:
    ned = {"ned": {"value": 0.5, "low": None, "high": None}}
    splits = {split: {"n_scored": 1, "n_total": 3, "n_prompts": 2, "scores": ned} for split in ("s1", "s2")}
    about = {"ned": {"direction": "higher", "definition": "n"}}
    return Summary("suite", "model", (), 3, 6, 3, ned, splits, about, "ocr", {})


def test_every_scored_image_has_its_raw_cosine(clip: OpenClip, run: tuple[Path, list[Generation], list[Score]]) -> None:
    folder, rows, before = run
    after = add_cosines(clip, folder, rows, before)
    name = metric.name(clip.label, clip.model)
    for key in ("a_0", "b_0", "c_0"):
        (score,) = (score for score in after if score.id == key)
        image = clip.extract([Image.open(folder / f"{key}.png")])[0]
        text = clip.encode_texts([f"A photo depicts {PROMPTS[key[0]]}"])[0]
        assert score.counts[name] == pytest.approx((float(image @ text), 1), abs=2e-6)
        assert score.counts["ned"] == (1, 2)
    errors = {score.id: score.error for score in after if score.error}
    assert errors == {"a_1": "lost", "b_1": "OCR: failed", "c_1": "CLIP: not an image"}
    assert all(not score.counts for score in after if score.error)
    assert add_cosines(clip, folder, rows, before) == after


def test_the_summary_names_the_model_and_counts_truncated_prompts(
    clip: OpenClip, run: tuple[Path, list[Generation], list[Score]]
) -> None:
    folder, rows, before = run
    scores = add_cosines(clip, folder, rows, before)
    summary = summarize(empty_summary(), clip, rows, scores)
    name = metric.name(clip.label, clip.model)
    estimate = stats.estimate([score for score in scores if score.error is None], name)
    assert summary.scores[name] == {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    assert list(summary.scores) == ["ned", name]
    assert list(summary.metrics) == ["ned", name]
    (only,) = (score.counts[name][0] for score in scores if score.split == "s1" and score.error is None)
    assert summary.splits["s1"]["scores"][name] == {"value": only, "low": None, "high": None}
    assert summary.splits["s1"]["n_scored"] == 1
    assert (summary.alignment["prompts"], summary.alignment["truncated_prompts"]) == (3, 1)
    assert summary.alignment["weights_sha256"] == clip.weights_sha256
    assert summary.alignment["clipscore"] is None
    assert Summary.from_dict(summary.to_dict()).scores == summary.scores


def test_the_published_scale_is_derived_from_every_image_of_the_published_model(
    clip: OpenClip, run: tuple[Path, list[Generation], list[Score]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows, before = run
    monkeypatch.setattr(clip, "model", metric.DEFAULT)
    cosines = {"a_0": 0.4, "b_0": -0.2, "c_0": 0.3}
    scores = [replace(s, counts={"clip_cosine": (cosines[s.id], 1)}) for s in before if s.id in cosines]
    summary = summarize(empty_summary(), clip, rows, scores)
    assert summary.scores["clip_cosine"]["value"] == pytest.approx(0.5 / 3)
    assert summary.alignment["clipscore"]["value"] == pytest.approx(2.5 * (0.4 + 0 + 0.3) / 3)
    assert summary.alignment["clipscore"]["low"] >= 0


def test_a_run_without_scored_images(clip: OpenClip, run: tuple[Path, list[Generation], list[Score]]) -> None:
    folder, rows, before = run
    failed = [replace(score, counts={}, error="failed") for score in before]
    assert add_cosines(clip, folder, rows, failed) == failed
    summary = summarize(empty_summary(), clip, rows, failed)
    assert summary.scores[metric.name(clip.label, clip.model)]["value"] is None
