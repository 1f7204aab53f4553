"""Published scores: known suites and metrics, a source and a day for each."""

from __future__ import annotations

import operator
from collections import Counter
from datetime import date

import pytest

from glmkit.evaluation import suites
from glmkit.evaluation.metrics.wise import CATEGORIES
from glmkit.evaluation.published_scores import CLIPSCORE, FILE, PublishedScore, disagreements, published
from glmkit.files import read_jsonl

HIGHEST = {"dpg": 100, "gedit-en": 10, "gedit-cn": 10, "imgedit": 5}
ROWS = [PublishedScore.from_dict(row) for row in read_jsonl(FILE)]


def test_every_row_fits_a_suite_and_names_its_source() -> None:
    for row in ROWS:
        suite = suites.load(row.suite)
        assert next(iter(row.scores)) == next(iter(suite.metrics))
        assert set(row.scores) <= {*suite.metrics, CLIPSCORE}
        assert all(0 <= value <= HIGHEST.get(row.suite, 1) for value in row.scores.values())
        assert row.source
        assert row.url.startswith("https://")
        assert date.fromisoformat(row.date)
    assert max(Counter((row.suite, row.model, row.cited) for row in ROWS).values()) == 1


@pytest.mark.parametrize(
    ("suite", "model", "scores"),
    [
        ("cvtg-2k", "GLM-Image", {"word_accuracy": 0.9116, "ned": 0.9557, "clipscore": 0.7877}),
        ("cvtg-2k", "SD3.5 Large", {"word_accuracy": 0.6548, "ned": 0.847, "clipscore": 0.7797}),
        ("longtext-zh", "GPT Image 1 [High]", {"text_score": 0.619}),
        ("oneig-text-en", "Ovis-Image", {"oneig_text_en": 0.914}),
        ("dpg", "DALL-E 3", {"dpg": 83.5}),
        ("dpg", "GLM-Image", {"dpg": 84.78}),
        ("dpg-first-word", "SD3 Medium", {"dpg": 84.08}),
        ("tiif", "GLM-Image", {"tiif_short": 0.8101, "tiif_long": 0.8102}),
        ("oneig-alignment-en", "Qwen-Image", {"oneig_alignment": 0.882}),
        ("oneig-alignment-zh", "GPT4o", {"oneig_alignment": 0.812}),
        ("oneig-overall-zh", "GLM-Image", {"oneig_overall": 0.511}),
        ("vqascore-t5", "DALL-E 3", {"vqascore_t5": 0.78}),
        ("vqascore-gpt-1-2", "Midjourney v6", {"vqascore_gpt_1_2": 0.61}),
        ("gedit-en", "GPT-4o", {"gedit": 7.53, "gedit_sc": 7.85, "gedit_pq": 7.62}),
        ("gedit-cn", "FLUX.2-dev", {"gedit": 7.278}),
        ("imgedit", "Qwen-Image-Edit-2511", {"imgedit": 4.51}),
    ],
)
def test_figures_of_the_sources(suite: str, model: str, scores: dict[str, float]) -> None:
    (row,) = [row for row in published(suite) if row.model == model]
    assert row.scores == scores


def test_sources_that_disagree_are_named() -> None:
    found = {(one.model, one.metric): one.values for one in disagreements(published("dpg"))}
    assert found["FLUX.1-dev", "dpg"] == (
        (83.84, "README of Mage-Flow, microsoft/Mage"),
        (83.52, "README of zai-org/GLM-Image"),
    )
    assert ("Qwen-Image", "dpg") not in found  # two sources, one value
    tiif = {(one.model, one.metric): dict(one.values) for one in disagreements(published("tiif"))}
    assert tiif["DALL-E 3", "tiif_short"] == {
        0.7618: "answers released by A113N-W3I/TIIF-Bench, judge GPT-4o",
        0.7496: "README of zai-org/GLM-Image",
        0.7447: "answers released by A113N-W3I/TIIF-Bench, judge Qwen2.5-VL-72B",
    }


def test_published_means_are_those_of_the_suites() -> None:
    """The overall score of OneIG-Bench is a plain mean of five parts, that of WISE a weighted sum of six categories."""
    rows = [row for name in ("oneig-overall-en", "oneig-overall-zh") for row in published(name) if len(row.scores) == 6]
    assert len(rows) == 30
    for row in rows:
        overall, *parts = row.scores.values()
        assert overall == pytest.approx(sum(parts) / 5, abs=0.0011)
    assert len(published("wise")) == 23
    for row in published("wise"):
        overall, *categories = row.scores.values()
        weights = (weight for _, weight in CATEGORIES.values())
        assert overall == pytest.approx(sum(map(operator.mul, weights, categories)), abs=0.003)  # one was rounded


def test_the_best_comes_first_and_own_suites_have_none() -> None:
    values = [row.scores["word_accuracy"] for row in published("cvtg-2k")]
    assert len(values) > 10
    assert values == sorted(values, reverse=True)
    assert published("text-render") == ()
