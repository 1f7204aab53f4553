"""Scores over time: which runs are paired, which changes are marked, and what is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from plain_runs import METRIC, write_run

from glmkit.cli import main
from glmkit.files import read_json, write_json

N = 40


def started(day: int) -> str:
    return f"2026-03-{day:02}T10:00:00+00:00"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs in any order of names: 0.5, then 0.9, 0.9 with two prompts changed places, and another split."""
    folder = tmp_path_factory.mktemp("runs")
    good = [(1.0, 1)] * 36 + [(0.0, 1)] * 4
    write_run(folder / "z", [(1.0, 1)] * 20 + [(0.0, 1)] * 20, name="first", started=started(1))
    write_run(folder / "deep" / "a", good, name="<b>second</b>", started=started(2), settings={"seeds": 1})
    write_run(folder / "m", [*good[:35], (0.0, 1), (1.0, 1), *good[37:]], name="third", started=started(3))
    write_run(folder / "s", good, name="signs", started=started(2), settings={"split": "signs"})
    write_run(folder / "broken", good, started=started(4))
    (folder / "broken" / "images.jsonl").write_text("{}\n")
    write_json(folder / "training" / "manifest.json", {"kind": "finetune"})
    return folder


def test_changes_are_those_from_the_run_before(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "history.html"
    assert main(["report", "--history", str(runs), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    data = read_json(tmp_path / "history.json")
    plain, signs = data["history"]
    assert [plain["suite"], plain["split"], signs["split"]] == ["text-render", None, "signs"]
    assert [one["run"] for one in plain["runs"]] == ["first", "<b>second</b>", "third"]
    first, second, third = (one["changes"].get(METRIC) for one in plain["runs"])
    assert first is None
    assert (second["outcome"], second["baseline"], second["value"]) == ("better", "first", pytest.approx(0.4))
    assert (third["outcome"], third["value"], third["n"]) == ("unresolved", pytest.approx(0.0), N)
    assert second["low"] > 0 > third["low"]
    assert len(data["left_out"]) == 1
    page = out.read_text()
    assert (
        "1 of 2 changes in word accuracy resolved; the latest: &lt;b&gt;second&lt;/b&gt; is better than first by"
        in page
    )
    assert "<b>second" not in page
    assert page.count("▲") == 1
    assert page.index("third</bdi>") < page.index("first</bdi>")
    rings = [svg.count("stroke: var(--ink)") for svg in re.findall("<svg.*?</svg>", page)]
    assert rings == [1, 0]
    # It may be written again, but not over what it has not written.
    assert main(["report", "--history", str(runs), "--out", str(out)]) == 0
    (tmp_path / "notes.html").write_text("mine")
    assert main(["report", "--history", str(runs), "--out", str(tmp_path / "notes.html")]) == 2
    assert (tmp_path / "notes.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--history", "TMP"], "no finished evaluation in"),
        (["--history", "TMP/nowhere"], "does not exist"),
        (["TMP", "--history", "TMP"], "a report compares runs, or shows a history"),
        ([], "a report compares runs, or shows a history"),
    ],
)
def test_bad_input(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [word.replace("TMP", str(tmp_path)) for word in words]
    assert main(["report", *argv, "--out", str(tmp_path / "a.html")]) == 2
    assert message in capsys.readouterr().err
