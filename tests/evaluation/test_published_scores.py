"""Published scores: known suites and metrics, a source and a day for each."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest

from glmkit.evaluation import suites
from glmkit.evaluation.published_scores import CLIPSCORE, FILE, PublishedScore, published
from glmkit.files import read_jsonl

ROWS = [PublishedScore.from_dict(row) for row in read_jsonl(FILE)]


def test_every_row_fits_a_suite_and_names_its_source() -> None:
    for row in ROWS:
        suite = suites.load(row.suite)
        assert next(iter(row.scores)) == next(iter(suite.metrics))
        assert set(row.scores) <= {*suite.metrics, CLIPSCORE}
        assert all(0 <= value <= 1 for value in row.scores.values())
        assert row.source
        assert row.url.startswith("https://")
        assert date.fromisoformat(row.date)
    assert max(Counter((row.suite, row.model, row.source) for row in ROWS).values()) == 1


@pytest.mark.parametrize(
    ("suite", "model", "scores"),
    [
        ("cvtg-2k", "GLM-Image", {"word_accuracy": 0.9116, "ned": 0.9557, "clipscore": 0.7877}),
        ("cvtg-2k", "SD3.5 Large", {"word_accuracy": 0.6548, "ned": 0.847, "clipscore": 0.7797}),
        ("longtext-zh", "GPT Image 1 [High]", {"text_score": 0.619}),
        ("oneig-text-en", "Ovis-Image", {"oneig_text_en": 0.914}),
    ],
)
def test_figures_of_the_sources(suite: str, model: str, scores: dict[str, float]) -> None:
    (row,) = [row for row in published(suite) if row.model == model]
    assert row.scores == scores


def test_the_best_comes_first_and_own_suites_have_none() -> None:
    values = [row.scores["word_accuracy"] for row in published("cvtg-2k")]
    assert len(values) > 10
    assert values == sorted(values, reverse=True)
    assert published("text-render") == ()
