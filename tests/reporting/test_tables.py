"""The data beside a report: every image, as it was scored."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import pytest
from reporting.conftest import MakeRun

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.files import read_json, read_jsonl
from glmkit.records import Prompt
from glmkit.reporting.build import write_report
from glmkit.reporting.tables import write_data


@pytest.fixture
def files(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> tuple[Path, ...]:
    """Three prompts in one run, two of them and a failed one in the other."""
    first = make_run("a", [(prompt, prompt.texts) for prompt in prompts[:3]])
    second = make_run("b", [(prompts[1], ["\u201cJa,zz\u201d", "=1+1"]), (prompts[4], RuntimeError("too\nlate"))])
    return write_report([first, second], tmp_path / "out" / "page.html")


def test_every_image_of_every_run_is_a_record(files: tuple[Path, ...]) -> None:
    assert [path.name for path in files] == ["page.html", "page.csv", "page.json"]
    with files[1].open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    records = read_json(files[2])["images"]
    assert [(record["run"], record["prompt_id"], record["compared"]) for record in records] == [
        ("nano (a)", "p00", False),
        ("nano (a)", "p01", True),
        ("nano (a)", "p02", False),
        ("nano (b)", "p01", True),
        ("nano (b)", "p04", False),
    ]
    for record, cells in zip(records, table, strict=True):
        assert json.loads(cells["recognized_lines"]) == record["recognized_lines"]
        assert json.loads(cells["expected"]) == record["expected"]
        assert cells["word_accuracy"] == ("" if record["word_accuracy"] is None else str(record["word_accuracy"]))
    assert records[4]["error"] == table[4]["error"] == "too\nlate"
    assert records[4]["ned"] is None
    assert records[4]["image"] is None


def test_values_are_those_of_the_scores(files: tuple[Path, ...], tmp_path: Path) -> None:
    data = read_json(files[2])
    scores = [score for name in "ab" for score in read_jsonl(tmp_path / name / "scores.jsonl")]
    for record, score in zip(data["images"], scores, strict=True):
        for metric, (numerator, denominator) in score["counts"].items():
            assert record[metric] == pytest.approx(numerator / denominator)
    assert set(data["metrics"]) <= set(data["images"][0])
    assert {standing["run"]: standing["scores"]["word_accuracy"]["n"] for standing in data["leaderboard"]} == {
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
    differences = [change for change in read_json(data)["differences"] if change["metric"] == "word_accuracy"]
    assert [(change["baseline"], change["run"], change["n"]) for change in differences] == [
        ("nano (a)", "nano (b)", 6),
        ("nano (a)", "nano (c)", 6),
        ("nano (b)", "nano (c)", 6),
    ]
    assert [change["value"] for change in differences] == pytest.approx([-1 / 6, -2 / 6, -1 / 6])
    assert all(change["low"] <= change["value"] <= change["high"] for change in differences)


@pytest.mark.parametrize("name", ["page.json", "page.csv", "page"])
def test_a_report_is_an_html_file(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt], name: str) -> None:
    with pytest.raises(UserError, match=r"--out .*page\.html"):
        write_report([make_run("a", [(prompts[0], prompts[0].texts)])], tmp_path / name)
    assert not list(tmp_path.glob("page*"))


FOREIGN = {
    "run file": ("summary.json", '{"suite": "text-render", "metrics": {}}'),
    "list": ("data.json", "[1, 2]"),
    "table": ("data.csv", "name;price\ntea;3\n"),
    "other encoding": ("data.csv", "n\u00e4me"),
    "page": ("index.html", "<!doctype html><title>mine</title>"),
    "empty": ("data.json", ""),
}


@pytest.mark.parametrize(("name", "content"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_no_report_wrote_stays(
    tmp_path: Path, make_run: MakeRun, prompts: list[Prompt], name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="latin-1")
    run = make_run("a", [(prompts[0], prompts[0].texts)])
    with pytest.raises(UserError, match=f"{name} is not of a report") as caught:
        write_report([run], path.with_suffix(".html"))
    assert path.read_text(encoding="latin-1") == content
    assert [item.name for item in tmp_path.iterdir() if item.is_file()] == [name]
    other = str(caught.value.fix).removeprefix("--out ").split(",")[0]
    assert write_report([run], Path(other)) == write_report([run], Path(other))


@pytest.mark.parametrize("of", [[], ["--history"]], ids=["runs", "history"])
def test_a_disk_that_does_not_take_the_page_gets_no_data_either(
    of: list[str], tmp_path: Path, make_run: MakeRun, prompts: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    run = make_run("a", [(prompts[0], prompts[0].texts)])
    command = ["report", *of, str(run), "--out", str(tmp_path / "out" / "page.html")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # the data are smaller
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").iterdir())
    assert f"cannot write {tmp_path / 'out' / 'page.html'}\n" in (error := capsys.readouterr().err)
    assert "try:   a disk that takes larger files" in error
    assert main(command) == 0
    assert len(list((tmp_path / "out").iterdir())) == (2 if of else 3)


def test_records_are_not_kept(tmp_path: Path) -> None:
    peaks = []
    for count in (100, 2000):
        records = ({"prompt_id": f"p{number}", "prompt": "a sign" * 100} for number in range(count))
        tracemalloc.start()
        write_data(tmp_path / "page.csv", tmp_path / "page.json", {"suite": "a"}, records)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(read_json(tmp_path / "page.json")["images"]) == 2000
    assert peaks[1] < 1.2 * peaks[0] < 1e6


@pytest.mark.parametrize("start", ["=", "@", "+", "-", "\t", "\r", "\n", " =", "\uff1d"])
def test_no_cell_is_a_formula(start: str, tmp_path: Path) -> None:
    record = {"prompt": f"{start}cmd|' /C calc'!A0", "error": f"{start}1", "expected": [f"{start}2"], f"{start}m": -0.5}
    write_data(tmp_path / "page.csv", tmp_path / "page.json", {}, [record])
    with (tmp_path / "page.csv").open(encoding="utf-8-sig", newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["prompt"] == f"'{record['prompt']}"
    assert line["error"] == f"'{start}1"
    assert json.loads(line["expected"]) == [f"{start}2"]
    assert line[f"'{start}m"] == "-0.5"
