"""The parts of OneIG-Bench without a judge, and the mean of all five."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from public_files import grid

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.evaluation import stats, suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.evaluation.suites.shared.oneig_measured import OneigDiversity, OneigStyle
from glmkit.files import read_json, read_jsonl, write_json
from glmkit.records import Generation, Score, Summary

CATEGORIES = ("Anime_Stylization", "Portrait", "General_Object", "Text_Rendering", "Knowledge_Reasoning")


def benchmark(folder: Path) -> Path:
    """The tables with two prompts of each category, and a style for the first of class anime."""
    style = folder / "scripts" / "style"
    style.mkdir(parents=True)
    tables = {"OneIG-Bench.csv": ("prompt_en", ()), "OneIG-Bench-ZH.csv": ("prompt_cn", ("Multilingualism",))}
    for file, (column, more) in tables.items():
        with (folder / file).open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["category", "id", column])
            for kind in (*CATEGORIES, *more):
                writer.writerows([kind, number, f"{kind} {number}"] for number in ("000", "001"))
    (style / "style.csv").write_text(",id,class\n0,000,Pop Art\n1,001,\n", encoding="utf-8")
    torch.save({"pop_art": torch.eye(3)[:2]}, style / "CSD_embed.pt")
    torch.save({"pop_art": torch.tensor([[0.0, 0.0, 1.0]])}, style / "SE_embed.pt")
    return folder


class MeanColour:
    """Features that can be worked out by hand: the mean colour, as an extractor of the real kind gives its own."""

    distances: Mapping[str, str] = {}
    spec = label = "mean-colour"
    width = 3
    conventions: Mapping[str, Any] = {"weights_sha256": "none"}

    def extract(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.array([np.asarray(image).mean(axis=(0, 1)) for image in images], dtype=np.float32)


def test_diversity_is_the_mean_distance_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red, red, blue and green: five of six pairs are at a right angle. A prompt with one image has no pair."""
    monkeypatch.setattr(OneigDiversity, "extractors", lambda _suite, _data, _device: (MeanColour(),))
    data = benchmark(tmp_path / "data")
    grid(tmp_path / "images" / "anime" / "mine" / "000.png", ("#fe0000", "#fe0000", "#0000fe", "#00fe00"))
    grid(tmp_path / "images" / "human" / "mine" / "001.png", ("#fe0000", "black", "black", "black"))
    summary = evaluate(EvaluationPlan("oneig-diversity-en", data=data, images=tmp_path / "images"), tmp_path / "run")
    assert summary.scores["oneig_diversity"]["value"] == pytest.approx(5 / 6, abs=1e-3)
    assert (summary.n_scored, summary.n_total) == (5, 40)
    assert summary.family == "formula of OneIG-Bench diversity (en), measured by mean-colour"
    assert summary.ocr == ""
    again = evaluate(EvaluationPlan("oneig-diversity-en", data=data, images=tmp_path / "images"), tmp_path / "run")
    assert again == summary
    scores = [Score.from_dict(line) for line in read_jsonl(tmp_path / "run" / "scores.jsonl")]
    assert [len(score.counts) for score in scores[:4]] == [0, 1, 2, 3]


def test_style_is_the_mean_of_the_nearest_references_of_two_encoders(tmp_path: Path) -> None:
    """The first encoder's nearest of two references is at .8, the second's at -.5, which counts as 0."""
    suite = OneigStyle("en")
    data = benchmark(tmp_path)
    prompts = suites.prompts(suite, data=data)
    assert [prompt.id for prompt in prompts] == ["anime-000"]
    image = Generation("anime-000_0", "anime-000", "", 0, "a.png")
    features = [{image.id: np.array([0.6, 0.8, 0.0])}, {image.id: np.array([0.8, 0.3, -0.5])}]
    counts = suite.measures({prompts[0].id: prompts[0]}, [image], features, data)
    assert counts[image.id]["style"][0] == pytest.approx(0.4)
    scores = [
        Score(f"p{prompt}_{seed}", f"p{prompt}", seed, "anime", "en", (), counts={"style": (value, 1)})
        for prompt, values in enumerate(([0.2, 0.4], [0.9]))
        for seed, value in enumerate(values)
    ]
    assert stats.estimate(scores, "oneig_style").value == pytest.approx((0.3 + 0.9) / 2)
    torch.save({"other": torch.eye(3)}, data / "scripts" / "style" / "SE_embed.pt")
    with pytest.raises(UserError, match="no references of style pop_art"):
        suite.measures({}, [image], features, data)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("oneig-diversity-en", 10, "needs the package dreamsim"),
        ("oneig-diversity-zh", 12, "needs the package dreamsim"),
        ("oneig-style-zh", 1, "checkpoint of CSD is not at"),
        ("oneig-reasoning-en", 2, "bring code that glmkit does not run"),
        ("oneig-reasoning-zh", 2, "bring code that glmkit does not run"),
    ],
)
def test_the_models_that_a_part_needs(name: str, count: int, message: str, tmp_path: Path) -> None:
    data = benchmark(tmp_path / "data")
    suite = suites.load(name)
    assert len(suites.prompts(suite, data=data)) == count
    with pytest.raises(UserError, match=message):
        evaluate(EvaluationPlan(name, data=data, images=tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="needs the prompt files"):
        suites.prompts(suite)


def part(folder: Path, name: str, value: float | None, model: str = "mine") -> None:
    metric = {"text": "oneig_text_en"}.get(name, f"oneig_{name}")
    pooled = {metric: {"value": value, "low": 0.1, "high": 0.9}}
    about: dict[str, Any] = {metric: {"direction": "higher", "definition": ""}}
    summary = Summary(f"oneig-{name}-en", model, (), 8, 8, 2, pooled, {}, about, "", {}, family="questions of X")
    write_json(folder / f"run {name} {model}" / "summary.json", summary.to_dict())


def test_overall_is_the_mean_of_five_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen-Image as OneIG-Bench and Ovis-Image publish it: .539 of five parts, style by the benchmark's own script."""
    values = {"alignment": 0.882, "text": 0.891, "reasoning": 0.306, "diversity": 0.197}
    for name, value in values.items():
        part(tmp_path / "runs", name, value)
    command = ["eval", "--suite", "oneig-overall-en", "--data", str(tmp_path / "runs"), "--run", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 2
    assert "holds no run of oneig-style-en" in capsys.readouterr().err
    (tmp_path / "runs" / "style_score_EN_2026-01-01.csv").write_text(",style\nmine,0.418\n", encoding="utf-8")
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["scores"]["oneig_overall"]["value"] == pytest.approx(0.5388)
    assert printed["scores"]["oneig_text"] == {"value": 0.891, "low": 0.1, "high": 0.9}
    assert "style: by the benchmark's own code, style_score_EN_2026-01-01.csv" in printed["why_not_official"]
    assert read_json(tmp_path / "out" / "summary.json")["model"] == "mine"
    assert main(command) == 0
    assert "0.539" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "page.html")]) == 2
    assert "is not an evaluation" in capsys.readouterr().err
    part(tmp_path / "runs", "text", 0.5, model="another")
    assert main(command) == 2
    assert "several runs of oneig-text-en" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("score", "model", "content", "message"),
    [
        (0.5, "another", ",style\nmine,0.4\n", "of several models"),
        (None, "mine", ",style\nmine,0.4\n", "has no score"),
        (0.5, "mine", ",style\nmine,0.4\nother,0.5\n", "needs one model"),
        (0.5, "mine", ",clay\nmine,0.4\n", "needs one model and the column style"),
    ],
)
def test_parts_that_have_no_mean(score: float | None, model: str, content: str, message: str, tmp_path: Path) -> None:
    for name in ("alignment", "text", "reasoning"):
        part(tmp_path, name, 0.5)
    part(tmp_path, "diversity", score, model)
    (tmp_path / "style_score_EN.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        suites.load("oneig-overall-en").combine("oneig-overall-en", tmp_path, tmp_path / "out")  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="no prompts of its own"):
        suites.prompts(suites.load("oneig-overall-en"), data=tmp_path)
