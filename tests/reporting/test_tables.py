"""The rows beside a report: all of them, as they were scored."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from glmkit.errors import UserError
from glmkit.files import read_json, read_jsonl
from glmkit.records import Prompt
from glmkit.reporting.build import write_report
from tests.reporting.conftest import MakeRun


@pytest.fixture
def files(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> tuple[Path, ...]:
    """Three prompts in one run, two of them and a failed one in the other."""
    first = make_run("a", [(prompt, prompt.texts) for prompt in prompts[:3]])
    second = make_run("b", [(prompts[1], ["\u201cJa,zz\u201d", "=1+1"]), (prompts[4], RuntimeError("too\nlate"))])
    return write_report([first, second], tmp_path / "out" / "page.html")


def test_every_image_of_every_run_is_a_row(files: tuple[Path, ...]) -> None:
    assert [path.name for path in files] == ["page.html", "page.csv", "page.json"]
    with files[1].open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    rows = read_json(files[2])["rows"]
    assert [(row["run"], row["prompt_id"], row["compared"]) for row in rows] == [
        ("nano (a)", "p00", False),
        ("nano (a)", "p01", True),
        ("nano (a)", "p02", False),
        ("nano (b)", "p01", True),
        ("nano (b)", "p04", False),
    ]
    for row, cells in zip(rows, table, strict=True):
        assert json.loads(cells["read"]) == row["read"] and json.loads(cells["expected"]) == row["expected"]
        assert cells["word_accuracy"] == ("" if row["word_accuracy"] is None else str(row["word_accuracy"]))
    assert rows[4]["error"] == table[4]["error"] == "too\nlate"
    assert rows[4]["ned"] is None and rows[4]["image"] is None


def test_values_are_those_of_the_scores(files: tuple[Path, ...], tmp_path: Path) -> None:
    data = read_json(files[2])
    scored = [row for name in "ab" for row in read_jsonl(tmp_path / name / "scores.jsonl")]
    for row, score in zip(data["rows"], scored, strict=True):
        for metric, (part, whole) in score["counts"].items():
            assert row[metric] == pytest.approx(part / whole)
    assert set(data["metrics"]) <= set(data["rows"][0])
    assert {row["run"]: row["scores"]["word_accuracy"]["n"] for row in data["leaderboard"]} == {
        "nano (a)": 1,
        "nano (b)": 1,
    }


def test_differences_of_all_pairs(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> None:
    """Run n reads nothing of the first n of the six prompts, whose texts are one word each and weigh the same."""
    same = [Prompt(prompt.id, "a sign", ("OPEN",), "simple") for prompt in prompts]
    runs = [
        make_run(name, [(prompt, ["?"] if index < n else prompt.texts) for index, prompt in enumerate(same)])
        for n, name in enumerate("abc")
    ]
    _, _, data = write_report(runs, tmp_path / "page.html")
    found = [row for row in read_json(data)["differences"] if row["metric"] == "word_accuracy"]
    assert [(row["base"], row["other"], row["n"]) for row in found] == [
        ("nano (a)", "nano (b)", 6),
        ("nano (a)", "nano (c)", 6),
        ("nano (b)", "nano (c)", 6),
    ]
    assert [row["value"] for row in found] == pytest.approx([-1 / 6, -2 / 6, -1 / 6])
    assert all(row["low"] <= row["value"] <= row["high"] for row in found)


@pytest.mark.parametrize("name", ["page.json", "page.csv", "page"])
def test_a_report_is_an_html_file(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt], name: str) -> None:
    with pytest.raises(UserError, match=r"--out .*page\.html"):
        write_report([make_run("a", [(prompts[0], prompts[0].texts)])], tmp_path / name)
    assert not list(tmp_path.glob("page*"))
