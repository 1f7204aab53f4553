"""Distances and the CLIP of the runs in a report."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmkit.records import Distance, Prompt
from glmkit.reporting.build import write_report
from glmkit.reporting.distances import distance_tables
from glmkit.reporting.load import load_runs

NEAR = Distance(
    reference="dalle3 <b>",
    metric="fid",
    value=21.5,
    self_distance=-0.0012341,
    n=4000,
    n_self_distance=2000,
    n_run=4000,
    n_reference=4000,
    indicative=False,
    prompts=4000,
    common_prompts=4000,
    formats={"run": {"PNG": 4000}, "reference": {"PNG": 4000}},
    definition="Fréchet distance",
    conventions={"antialias": True},
)
ALIGNMENT = {
    "metric": "clip_cosine",
    "model": "clip-ViT-L-14/openai",
    "weights_sha256": "a" * 64,
    "text": "A photo depicts {prompt}",
    "prompts": 120,
    "truncated_prompts": 7,
    "clipscore": {"value": 0.79, "low": 0.78, "high": 0.8},
}


@pytest.fixture
def runs(make_run: Any) -> list[Path]:
    prompt = Prompt("p1", "a sign 'Owl'", ("Owl",))
    return [make_run(name, [(prompt, ["Owl"])]) for name in ("first", "second")]


def add_to_summary(folder: Path, **more: Any) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def text_of(folders: list[Path], out: Path) -> str:
    write_report(folders, out)
    page = re.sub(r"<(style|script)>.*?</\1>", "", out.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_distance_stands_beside_that_of_the_set_from_itself(runs: list[Path], tmp_path: Path) -> None:
    add_to_summary(runs[0], distances=[NEAR.to_dict()])
    text = text_of(runs, tmp_path / "page.html")
    assert "FID to dalle3 <b>" in text
    assert "21.5 \u22120.001234 (2000 per side) 4000 4000 of 4000" in text
    assert "not quality" in text
    assert "Antialias: True" in text
    assert "indicative" not in text.lower()


def test_no_distances_no_section(runs: list[Path], tmp_path: Path) -> None:
    text = text_of(runs, tmp_path / "page.html")
    assert "Distances" not in text
    assert "CLIP" not in text


def test_the_notes_name_what_limits_a_comparison(runs: list[Path]) -> None:
    mixed = {"run": {"PNG": 300}, "reference": {"JPEG": 4000}}
    few = replace(NEAR, n=300, n_run=300, indicative=True, common_prompts=1, prompts=300, formats=mixed)
    add_to_summary(runs[0], distances=[NEAR.to_dict()])
    add_to_summary(runs[1], distances=[few.to_dict()])
    (table,) = distance_tables(load_runs(runs))
    assert [run for run, _ in table.distances] == [run.name for run in load_runs(runs)]
    assert [note.split()[0] for note in table.notes] == ["Indicative", "The", "Other", "Files"]
    add_to_summary(runs[1], distances=[NEAR.to_dict()])
    (table,) = distance_tables(load_runs(runs))
    assert not table.notes


def test_other_conventions_are_another_distance(runs: list[Path]) -> None:
    add_to_summary(runs[0], distances=[NEAR.to_dict()])
    add_to_summary(runs[1], distances=[replace(NEAR, conventions={"antialias": False}).to_dict()])
    assert [len(table.distances) for table in distance_tables(load_runs(runs))] == [1, 1]


def test_the_clip_with_its_scale_and_truncation(runs: list[Path], tmp_path: Path) -> None:
    add_to_summary(runs[0], alignment=ALIGNMENT)
    add_to_summary(runs[1], alignment={**ALIGNMENT, "model": "clip-glmkit", "clipscore": None, "prompts": 1})
    text = text_of(runs, tmp_path / "page.html")
    assert "CLIPScore 0.790 (0.780 to 0.800) 7 of 120 prompts truncated" in text
    assert "clip-glmkit, weights aaaaaaaaaaaa not comparable with published CLIPScores 7 of 1 prompt truncated" in text


@pytest.mark.parametrize(("weights", "compared"), [("a" * 64, True), ("b" * 64, False), (None, False)])
def test_cosines_of_different_weights_are_never_compared(
    weights: str | None, compared: bool, runs: list[Path], tmp_path: Path
) -> None:
    for folder, sha256 in zip(runs, ("a" * 64, weights), strict=True):
        metrics = json.loads((folder / "summary.json").read_text())["metrics"]
        about = {"clip_glmkit_cosine": {"direction": "higher", "definition": "cosine"}}
        alignment = {**ALIGNMENT, "metric": "clip_glmkit_cosine", "weights_sha256": sha256} if sha256 else {}
        add_to_summary(folder, metrics={**metrics, **about}, alignment=alignment)
        scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
        for score in scores:
            score["counts"]["clip_glmkit_cosine"] = [0.5, 1]
        (folder / "scores.jsonl").write_text("".join(json.dumps(score) + "\n" for score in scores))
    text = text_of(runs, tmp_path / "page.html")
    assert ("CLIP glmkit cosine higher is better" in text) == compared
    assert ("CLIP alignment was measured by different models" in text) != compared
