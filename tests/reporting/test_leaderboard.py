"""Ranks that the statistics support, and published scores apart from measured ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_page import Page
from reporting.conftest import MakeRun

from glmkit.evaluation.published_scores import PublishedScore, RelatedBenchmark
from glmkit.files import read_json, write_json
from glmkit.records import Prompt
from glmkit.reporting import leaderboard as module
from glmkit.reporting.build import write_report
from glmkit.reporting.compare import compare
from glmkit.reporting.leaderboard import Leaderboard, leaderboard
from glmkit.reporting.load import load_runs

PROMPTS = [Prompt(f"p{index}", f"say {index}", ("one two",)) for index in range(20)]
SOURCE = PublishedScore(
    "text-render", "Other <1>", {"word_accuracy": 0.75}, "a paper", "https://example.org/a", "2026-01-02"
)


def readings(right: int) -> list[tuple[Prompt, list[str]]]:
    return [(prompt, ["one two" if index < right else "one"]) for index, prompt in enumerate(PROMPTS)]


def board_of(folders: list[Path]) -> Leaderboard:
    runs = load_runs(folders)
    return leaderboard(runs, compare(runs))


def test_runs_without_a_resolved_difference_share_a_rank(make_run: MakeRun) -> None:
    board = board_of([make_run("low", readings(2)), make_run("best", readings(20)), make_run("near", readings(19))])
    assert [(standing.rank, standing.run, standing.index) for standing in board.standings] == [
        (1, "nano (best)", 1),
        (1, "nano (near)", 2),
        (3, "nano (low)", 0),
    ]
    assert [standing.estimates[0].value for standing in board.standings if standing.estimates[0]] == [1.0, 0.975, 0.55]
    assert board.columns[0] == ("word_accuracy", "higher")


def test_where_lower_is_better_the_lowest_leads(make_run: MakeRun) -> None:
    folders = [make_run("low", readings(2)), make_run("best", readings(20))]
    for folder in folders:
        summary = read_json(folder / "summary.json")
        write_json(folder / "summary.json", {**summary, "metrics": {"cer": summary["metrics"]["cer"]}})
    assert [(standing.rank, standing.run) for standing in board_of(folders).standings] == [
        (1, "nano (best)"),
        (2, "nano (low)"),
    ]


def test_a_run_without_a_score_comes_last(make_run: MakeRun) -> None:
    failed = [(prompt, RuntimeError("no")) for prompt in PROMPTS]
    board = board_of([make_run("none", failed), make_run("some", readings(2))])
    assert [(standing.run, standing.n_scored) for standing in board.standings] == [
        ("nano (some)", 20),
        ("nano (none)", 0),
    ]


def test_clipscore_only_over_the_same_prompts(make_run: MakeRun) -> None:
    folders = [make_run("all", readings(2)), make_run("half", readings(2)[:10])]
    for folder in folders:
        scale = {
            "metric": "clip_cosine",
            "model": "clip",
            "weights_sha256": "0" * 64,
            "prompts": 20,
            "truncated_prompts": 0,
            "clipscore": {"value": 0.79, "low": 0.78, "high": 0.8},
        }
        write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "alignment": scale})
    board = board_of(folders)
    assert board.columns[-1] == ("clipscore", "higher")
    values = {standing.run: standing.estimates[-1] for standing in board.standings}
    assert values["nano (all)"] is None
    assert values["nano (half)"] == (0.79, 0.78, 0.8, 10)


def test_published_scores_stand_apart_with_source_and_date(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites: list[str] = []

    def published(suite: str) -> tuple[PublishedScore, ...]:
        suites.append(suite)
        return (SOURCE,)

    monkeypatch.setattr(module, "published", published)
    write_report([make_run("one", readings(2))], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert suites == ["text-render"]
    assert "Published by others, not measured here Other <1> a paper , 2026-01-02 0.750" in page.text
    assert page.all("a", href="https://example.org/a")
    data = read_json(tmp_path / "report.json")
    assert data["published"] == [SOURCE.to_dict()]
    assert [standing["run"] for standing in data["leaderboard"]] == ["nano"]


def test_published_scores_with_the_same_judge_come_first(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And benchmarks that resemble the suite stand apart, with what their sources disagree on."""
    other = replace(SOURCE, model="Best", scores={"word_accuracy": 0.9}, judge="GPT-4.1")
    same = replace(SOURCE, model="Second", scores={"word_accuracy": 0.8}, judge="GPT-4o")
    monkeypatch.setattr(module, "published", lambda _suite: (other, same, SOURCE))
    near = [
        replace(SOURCE, model="A", scores={"near": value}, source=source) for value, source in ((0.7, "x"), (0.6, "y"))
    ]
    benchmark = RelatedBenchmark("Near <2>", "near", "text-render", "It has other prompts.")
    monkeypatch.setattr(module, "related", lambda suite, _: ((benchmark, near),) if suite == "text-render" else ())
    run = make_run("one", readings(2))
    write_json(run / "summary.json", {**read_json(run / "summary.json"), "judge": "gpt-4o at http://x text-1"})
    write_report([run], tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Published by others with the same judge, not measured here Second a paper, judge GPT-4o" in text
    rest = text.split("Published by others with another judge, or without naming it")[1]
    assert 0 < rest.index("Best") < rest.index("Other <1>") < rest.index("Near <2>")
    assert "Published on Near <2>, which is not measured here It has other prompts." in text
    assert "Sources disagree: A, near: 0.700 (x), 0.600 (y)" in text
    data = read_json(tmp_path / "report.json")
    assert [one["model"] for one in data["published"]] == ["Second", "Best", "Other <1>"]
    assert [one["scores"]["near"] for one in data["published_related"]] == [0.7, 0.6]
