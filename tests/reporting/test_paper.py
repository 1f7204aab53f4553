"""Tables and figures for papers: their numbers, what is bold, what is escaped, and what is replaced."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from reporting.conftest import MakeRun

from glmkit.errors import UserError
from glmkit.files import read_json, read_jsonl, write_json, write_jsonl
from glmkit.records import Prompt
from glmkit.reporting.compare import Comparison, compare
from glmkit.reporting.figures import pareto_front
from glmkit.reporting.leaderboard import leaderboard
from glmkit.reporting.load import EvalRun, load_runs
from glmkit.reporting.paper import check_paper, clear_winner, latex_table, markdown_table, write_paper
from glmkit.reporting.price import write_price_figure


def compared(*folders: Path, names: tuple[str, ...] = ()) -> tuple[tuple[EvalRun, ...], Comparison]:
    runs = load_runs(folders, names)
    return runs, compare(runs)


@pytest.fixture
def three(make_run: MakeRun) -> tuple[Path, ...]:
    """One run reads nothing, one half of 24 prompts, one all but the first."""
    many = [Prompt(f"m{index:02}", "a sign", ("OPEN",)) for index in range(24)]
    reads = {"nothing": 0, "half": 12, "most": 23}
    return tuple(
        make_run(name, [(one, ["OPEN"] if index >= 24 - count else ["?"]) for index, one in enumerate(many)], side=32)
        for name, count in reads.items()
    )


def test_bold_only_where_every_difference_is_resolved(three: tuple[Path, ...], make_run: MakeRun) -> None:
    runs, comparison = compared(*three)
    assert clear_winner(comparison.metrics[0]) == "nano (most)"
    table = markdown_table(runs, comparison, leaderboard(runs, comparison))
    estimate = comparison.metrics[0].estimates["nano (most)"]
    best = next(line for line in table.splitlines() if line.startswith("| nano (most)"))
    assert f"**{estimate.value:.3f}** [{estimate.low:.3f}, {estimate.high:.3f}]" in best
    assert table.count("**") == best.count("**")
    assert "24 prompts" in table
    many = [Prompt(f"m{index:02}", "a sign", ("OPEN",)) for index in range(24)]
    near = make_run("near", [(one, ["OPEN"] if index > 1 else ["?"]) for index, one in enumerate(many)], side=32)
    _, comparison = compared(*three, near)  # one prompt fewer than the best: not told apart
    assert clear_winner(comparison.metrics[0]) is None
    _, comparison = compared(near)
    assert clear_winner(comparison.metrics[0]) is None


def test_a_judge_stands_with_its_share_of_no(three: tuple[Path, ...]) -> None:
    for number, folder in enumerate(three):
        path = folder / "scores.jsonl"
        rows = [{**row, "counts": {**row["counts"], "no_answers": [number, 4]}} for row in read_jsonl(path)]
        write_jsonl(path, rows)
        write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "judge": "gpt-4o at x"})
    runs, comparison = compared(*three)
    board = leaderboard(runs, comparison)
    for table in (markdown_table(runs, comparison, board), latex_table(runs, comparison, board)):
        assert "Judge: gpt-4o at x." in table
        assert "answers that are no: nano (most) 50 %, nano (half) 25 %, nano (nothing) 0 %." in table


def test_names_are_escaped(three: tuple[Path, ...]) -> None:
    nasty = ("a|b_c*<b>", r"50 % & \input{x} $#~^", "line\nbreak\u202e")
    runs, comparison = compared(*three, names=nasty)
    board = leaderboard(runs, comparison)
    markdown, latex = markdown_table(runs, comparison, board), latex_table(runs, comparison, board)
    assert r"| a\|b\_c\*\<b\> |" in markdown
    assert r"50 \% \& \textbackslash{}input\{x\} \$\#\textasciitilde{}\textasciicircum{} & " in latex
    for text in (markdown, latex):
        assert "line break" in text
        assert "\u202e" not in text
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 3
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(comparison.metrics) + 1}  # seconds


def test_figures_and_what_they_replace(three: tuple[Path, ...], tmp_path: Path) -> None:
    for index, folder in enumerate(three):
        images = [{**image, "seconds": 9.0 - index} for image in read_jsonl(folder / "images.jsonl")]
        write_jsonl(folder / "images.jsonl", images)
    runs, comparison = compared(*three)
    board, paper = leaderboard(runs, comparison), tmp_path / "paper"
    written = write_paper(paper, runs, comparison, board)
    assert {path.name for path in written} == {path.name for path in paper.iterdir()}
    assert len(written) == 6
    for path in written:
        if path.suffix == ".svg":
            text = " ".join(ElementTree.parse(path).getroot().itertext())
            assert "nano (most)" in text
            assert "Word accuracy" in text
        elif path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width > 800
    content = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in write_paper(paper, runs, comparison, board)} == content
    check_paper(paper)
    other = read_json(three[0] / "manifest.json")
    other["environment"]["device"] = "cuda"
    write_json(three[0] / "manifest.json", other)
    runs, comparison = compared(*three)
    assert len(write_paper(paper, runs, comparison, board)) == 4  # seconds of several devices are not compared
    assert len(list(paper.iterdir())) == 4
    (paper / "scores.md").write_text("mine")
    with pytest.raises(UserError, match="is not of a report"):
        check_paper(paper)


def test_a_run_without_seconds_has_no_place_in_the_figure(three: tuple[Path, ...], tmp_path: Path) -> None:
    runs, comparison = compared(*three)
    silent = [replace(run, images=tuple(replace(image, seconds=None) for image in run.images)) for run in runs[1:]]
    written = write_paper(tmp_path / "paper", (runs[0], *silent), comparison, leaderboard(runs, comparison))
    assert [path.name for path in written] == ["scores.md", "scores.tex", "scores.svg", "scores.png"]


@pytest.mark.parametrize("peak", [None, 30.5])
def test_the_figure_of_prices_has_memory_where_it_was_measured(tmp_path: Path, peak: float | None) -> None:
    change = {"word_accuracy": {"difference": 0.0, "low": -0.1, "high": 0.1, "n": 20}}
    row = {"seconds": {"denoising": 9.0}, "peak_memory_gib": peak, "differences": change, "reuse": 1, "guided": 1.0}
    result = {"settings": [{**row, "setting": "exact"}, {**row, "setting": "steps=10"}]}
    write_price_figure(result, tmp_path / "price.svg")
    text = " ".join(ElementTree.parse(tmp_path / "price.svg").getroot().itertext())
    assert "seconds of denoising" in text
    assert ("peak GPU memory" in text) == (peak is not None)
    assert text.count("steps=10") == (1 if peak is None else 2)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.6), (4, 0.9)], [1, 3, 0]),
        ([(1, 0.5), (1, 0.5), (1, 0.6)], [2]),
        ([], []),
    ],
)
def test_the_front_holds_what_no_point_beats(points: list[tuple[float, float]], front: list[int]) -> None:
    assert pareto_front(points) == front
