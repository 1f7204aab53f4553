"""Published scores: known suites and metrics, a source and a day for each."""

from __future__ import annotations

import operator
from collections import Counter
from datetime import date

import pytest

from glmkit.evaluation import suites
from glmkit.evaluation.metrics.unigenbench import DIMENSIONS
from glmkit.evaluation.metrics.wise import CATEGORIES
from glmkit.evaluation.published_scores import (
    CLIPSCORE,
    FILE,
    RELATED,
    PublishedScore,
    disagreements,
    published,
    related,
)
from glmkit.files import read_jsonl

RANGES = {"dpg": (0, 100), "gedit-en": (0, 10), "gedit-cn": (0, 10), "imgedit": (0, 5), "hpdv3": (-5, 15)}
ROWS = [PublishedScore.from_dict(row) for row in read_jsonl(FILE)]


def test_every_row_fits_a_suite_or_a_benchmark_beside_it_and_names_its_source() -> None:
    for row in ROWS:
        metrics = [RELATED[row.suite].metric] if row.suite in RELATED else list(suites.load(row.suite).metrics)
        assert next(iter(row.scores)) == metrics[0]
        assert set(row.scores) <= {*metrics, CLIPSCORE}
        low, high = RANGES.get(row.suite, (0, 1))
        assert all(low <= value <= high for value in row.scores.values())
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


GLM, MAGE, OVIS = "README of zai-org/GLM-Image", "README of Mage-Flow, microsoft/Mage", "README of AIDC-AI/Ovis-Image"
ONEIG, BAGEL, WISE = (
    "README of OneIG-Bench/OneIG-Benchmark",
    "README of ByteDance-Seed/Bagel",
    "leaderboard of PKU-YuanGroup/WISE",
)
# What the sources say of the models that GLM-Image is set beside, copied from them once more.
SAID: dict[str, dict[str, dict[str, float | tuple[float, ...]]]] = {
    "dpg": {
        GLM: {
            "GLM-Image": 84.78,
            "DALL-E 3": 83.50,
            "SD3 Medium": 84.08,
            "FLUX.1-dev": 83.52,
            "SDXL": 74.65,
            "GPT Image 1 [High]": 85.15,
            "Qwen-Image": 88.32,
            "Qwen-Image-2512": 87.20,
            "Z-Image": 88.14,
            "Z-Image-Turbo": 84.86,
            "Seedream 4.5": 88.63,
            "Nano Banana 2.0": 87.16,
        },
        MAGE: {"FLUX.1-dev": 83.84, "FLUX.2-dev": 87.57},
        OVIS: {
            "Qwen-Image": (88.32, 91.32, 91.56, 92.02, 94.31, 92.73),
            "GPT4o": (85.15, 88.89, 88.94, 89.84, 92.63, 90.96),
        },
    },
    "tiif": {
        GLM: {
            "GLM-Image": (0.8101, 0.8102),
            "DALL-E 3": (0.7496, 0.7081),
            "SD3 Medium": (0.6746, 0.6609),
            "FLUX.1-dev": (0.7109, 0.7178),
            "SDXL": (0.5496, 0.4213),
            "GPT Image 1 [High]": (0.8915, 0.8829),
            "Qwen-Image": (0.8614, 0.8683),
            "Qwen-Image-2512": (0.8324, 0.8493),
            "Z-Image": (0.8020, 0.8301),
            "Z-Image-Turbo": (0.7773, 0.8005),
            "Seedream 4.5": (0.9049, 0.8852),
            "Nano Banana 2.0": (0.9100, 0.8826),
        },
        MAGE: {"FLUX.2-dev": (0.8882, 0.8810)},
    },
    "oneig-overall-en": {
        GLM: {
            "GLM-Image": 0.528,
            "FLUX.1-dev": 0.434,
            "SDXL": 0.316,
            "GPT Image 1 [High]": 0.533,
            "Qwen-Image": 0.539,
            "Qwen-Image-2512": 0.530,
            "Z-Image": 0.546,
            "Z-Image-Turbo": 0.528,
            "Seedream 4.5": 0.576,
            "Nano Banana 2.0": 0.578,
        },
        MAGE: {"FLUX.2-dev": 0.551},
        ONEIG: {
            "SD3.5 Large": (0.462, 0.809, 0.629, 0.294, 0.353, 0.225),
            "SDXL": (0.316, 0.688, 0.029, 0.237, 0.332, 0.296),
        },
        OVIS: {
            "Qwen-Image": (0.539, 0.882, 0.891, 0.306, 0.418, 0.197),
            "GPT4o": (0.533, 0.851, 0.857, 0.345, 0.462, 0.151),
            "FLUX.1-dev": (0.434, 0.786, 0.523, 0.253, 0.368, 0.238),
        },
    },
    "oneig-overall-zh": {
        GLM: {
            "GLM-Image": 0.511,
            "GPT Image 1 [High]": 0.474,
            "Qwen-Image": 0.548,
            "Qwen-Image-2512": 0.515,
            "Z-Image": 0.535,
            "Z-Image-Turbo": 0.507,
            "Seedream 4.5": 0.551,
            "Nano Banana 2.0": 0.567,
        },
        MAGE: {"FLUX.1-dev": 0.245, "FLUX.2-dev": 0.516},
        OVIS: {
            "Qwen-Image": (0.548, 0.825, 0.963, 0.267, 0.405, 0.279),
            "GPT4o": (0.474, 0.812, 0.650, 0.300, 0.449, 0.159),
        },
    },
    "geneval": {
        "Janus-Pro, arXiv 2501.17811": {"DALL-E 3": 0.67},
        "README of djghosh13/geneval": {"SDXL": 0.55},
        BAGEL: {"SD3 Medium": 0.74, "FLUX.1-dev": 0.82, "BAGEL": 0.82, "BAGEL+CoT": 0.88},
        MAGE: {
            "FLUX.1-dev": 0.66,
            "GPT Image 1": 0.84,
            "Qwen-Image": 0.87,
            "Z-Image": 0.84,
            "Z-Image-Turbo": 0.82,
            "FLUX.2-dev": 0.87,
        },
    },
    "wise": {
        WISE: {
            "Nano Banana Pro": 0.876,
            "GPT Image 1.5": 0.825,
            "FLUX.2-dev": 0.565,
            "Qwen-Image": 0.510,
            "Qwen-Image-2512": 0.499,
            "FLUX.1-dev": 0.416,
            "SD3.5 Large": 0.404,
            "SD3 Medium": 0.385,
        }
    },
    "wise-2025": {BAGEL: {"FLUX.1-dev": 0.50, "BAGEL": 0.52, "BAGEL+CoT": 0.70}},
    "hpdv3": {"project page of MizzenAI/HPSv3": {"SD3 Medium": 5.31, "FLUX.1-dev": 10.43, "SDXL": 8.20}},
    "unigenbench-en": {
        "leaderboard of CodeGoat24/UniGenBench": {
            "Z-Image-Turbo": 0.7140,
            "FLUX.2-dev": 0.8476,
            "GLM-Image": 0.6723,
            "DALL-E 3": 0.6885,
        }
    },
    "vqascore-t5": {"GenAI-Bench, linzhiqiu/t2v_metrics": {"DALL-E 3": 0.78, "Midjourney v6": 0.76, "SDXL": 0.72}},
    "imgedit": {
        MAGE: {
            "Nano Banana Pro": 4.37,
            "Seedream 4.5": 4.32,
            "FLUX.2-dev": 4.35,
            "Qwen-Image-Edit-2511": 4.51,
            "FLUX.1-Kontext-dev": 3.71,
            "Step1X-Edit-v1.2": 3.95,
        }
    },
    "gedit-en": {
        MAGE: {
            "Nano Banana Pro": 7.738,
            "Seedream 4.5": 7.820,
            "FLUX.2-dev": 7.413,
            "Qwen-Image-Edit-2511": 7.877,
            "FLUX.1-Kontext-dev": 6.462,
            "Step1X-Edit-v1.2": 7.480,
        },
        BAGEL: {"GPT-4o": (7.53, 7.85, 7.62), "Step1X-Edit": (6.70, 7.09, 6.76)},
    },
    "gedit-cn": {
        MAGE: {
            "Nano Banana Pro": 7.799,
            "Seedream 4.5": 7.800,
            "FLUX.2-dev": 7.278,
            "Qwen-Image-Edit-2511": 7.819,
            "FLUX.1-Kontext-dev": 1.857,
            "Step1X-Edit-v1.2": 7.467,
        }
    },
}


@pytest.mark.parametrize("suite", SAID)
def test_the_file_says_what_the_sources_say(suite: str) -> None:
    """All values where more than one is given, else the leading one."""
    for source, models in SAID[suite].items():
        found = {row.model: tuple(row.scores.values()) for row in published(suite) if row.source == source}
        for model, said in models.items():
            values = said if isinstance(said, tuple) else (said,)
            assert found[model][: len(values)] == values, (source, model)


def test_benchmarks_beside_a_suite_or_a_metric() -> None:
    assert [one.title for one, _ in related("geneval2", ["geneval2_gm"])] == ["GenEval"]
    assert [one.title for one, _ in related("text-render", ["word_accuracy", "hpsv3"])] == ["the HPSv3 benchmark"]
    assert related("dpg", ["dpg"]) == ()
    ((_, scores),) = related("wise", ["wise"])
    assert [row.model for row in scores] == ["BAGEL+CoT", "BAGEL", "FLUX.1-dev", "Janus-Pro"]
    found = {(one.model, one.metric): dict(one.values) for one in disagreements(published("geneval"))}
    assert found == {("FLUX.1-dev", "geneval"): {0.82: BAGEL, 0.66: MAGE}}


@pytest.mark.parametrize(
    ("named", "measured", "expected"),
    [
        ("GPT-4o", "gpt-4o at https://api.openai.com/v1/, temperature 0.0 tiif-1", True),
        ("GPT-4o", "gpt-4o-2024-08-06 at http://x", True),
        ("GPT-4o", "gpt-4o-mini at http://x", False),
        ("GPT-4o", "published answers, testmini_subset_eval_results_GPT-4o tiif-1", True),
        ("Qwen2.5-VL-72B", "published answers, testmini_subset_eval_results_QwenVL tiif-1", True),
        ("Qwen2.5-VL-72B", "Qwen/Qwen2.5-VL-72B-Instruct at http://x", True),
        ("Qwen2.5-VL-72B", "Qwen2.5-VL-72B-Instruct-AWQ at http://x", False),
        ("Qwen3.5-35B-A3B", "Qwen3.5-35B-A3B at http://x", True),
        ("Gemini 2.5 Pro", "gemini-2.5-pro at http://x", True),
        ("Gemini 2.5 Pro", "answers of Gemini 2.5 Pro unigenbench-1", True),
        ("", "gpt-4o at http://x", False),
        ("GPT-4o", "", False),
    ],
)
def test_a_source_has_the_judge_of_a_run(named: str, measured: str, expected: bool) -> None:
    assert PublishedScore("tiif", "m", {"tiif_short": 0.5}, "s", "u", "d", named).has_judge(measured) is expected


def test_sources_that_disagree_are_named() -> None:
    found = {(one.model, one.metric): one.values for one in disagreements(published("dpg"))}
    assert found["FLUX.1-dev", "dpg"] == (
        (83.84, "README of Mage-Flow, microsoft/Mage"),
        (83.52, "README of zai-org/GLM-Image"),
    )
    assert ("Qwen-Image", "dpg") not in found  # two sources, one value
    tiif = {(one.model, one.metric): dict(one.values) for one in disagreements(published("tiif"))}
    assert ("Z-Image", "tiif_long") not in tiif  # .8301 and .8304
    assert list(tiif["Qwen-Image", "tiif_short"]) == [0.8614, 0.8345]  # not reproduced
    gedit = {(one.model, one.metric): one.values for one in disagreements(published("gedit-en"))}
    assert [value for value, _ in gedit["BAGEL", "gedit"]] == [6.52, 6.125]
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
    whole = [row for row in published("unigenbench-en") if len(row.scores) > 1]
    assert len(whole) == 14
    for row in whole:
        overall, *dimensions = row.scores.values()
        assert set(row.scores) == {"unigenbench", *(f"unigenbench_{name}" for name in DIMENSIONS)}
        assert overall == pytest.approx(sum(dimensions) / 10, abs=0.00011)


def test_the_best_comes_first_and_own_suites_have_none() -> None:
    values = [row.scores["word_accuracy"] for row in published("cvtg-2k")]
    assert len(values) > 10
    assert values == sorted(values, reverse=True)
    assert published("text-render") == ()
