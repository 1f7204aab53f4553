"""The gate: when it opens, when it closes, and what it says; drops and intervals by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plain_runs import write_run

from glmkit.cli import main
from glmkit.evaluation import stats

N = 40


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 40 prompts of one word: `base` reads all but 2, `new` all but 14, 12 of them newly wrong."""
    folder = tmp_path_factory.mktemp("runs")
    for name, wrong in (("base", 2), ("new", 14)):
        write_run(folder / name, [(float(number >= wrong), 1) for number in range(N)])
    for name, value in (("base-loss", 0.1), ("new-loss", 0.4)):
        write_run(folder / name, [(value, 1)] * N, direction="lower")
    for name, value in (("90", 90), ("88", 88)):
        write_run(folder / name, [(value, 100)] * N)
    write_run(folder / "five", [(1, 1)] * 5)
    write_run(folder / "failed", ["no memory", *[(1, 1)] * 3])
    write_run(folder / "one", [(0, 1)])
    return folder


def gate(folder: Path, new: str, base: str, *options: str) -> list[str]:
    return ["gate", str(folder / new), "--against", str(folder / base), *options]


@pytest.mark.parametrize(
    ("allowed", "options", "code", "outcome"),
    [
        ("0", [], 1, "failed"),
        ("0.1", [], 1, "failed"),
        ("0.3", [], 0, "undecided"),  # the drop itself, in the middle of its interval
        ("0.3", ["--strict"], 1, "undecided"),
        ("0.5", ["--strict"], 0, "passed"),
    ],
)
def test_the_interval_of_the_drop_decides(
    runs: Path, allowed: str, options: list[str], code: int, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 of 40 newly wrong: 0.3, and by the normal approximation of 40 paired differences 0.3 +- 0.142."""
    argv = gate(runs, "new", "base", "--metric", "word_accuracy", "--max-drop", allowed, "--json", *options)
    assert main(argv) == code
    result = json.loads(capsys.readouterr().out)
    assert (result["outcome"], result["exit"], result["drop"], result["n"]) == (outcome, code, pytest.approx(0.3), N)
    half = 1.96 * (0.3 * 0.7 / N) ** 0.5
    assert (result["low"], result["high"]) == pytest.approx((0.3 - half, 0.3 + half), abs=0.02)


def test_the_sentence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(gate(runs, "new", "base", "--max-drop", "0.02")) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("failed: Word accuracy of new against base: \u22120.300 (95 % interval \u22120.4")
    assert printed.strip().endswith(", 40 prompts); worse by more than the allowed 0.02.")
    assert main(gate(runs, "base", "new")) == 0
    assert capsys.readouterr().out.startswith("passed: Word accuracy of base against new: +0.300 (95 % interval +0.1")


def test_a_metric_of_which_less_is_better(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(gate(runs, "base-loss", "new-loss")) == 0
    assert main(gate(runs, "new-loss", "base-loss")) == 1
    assert (
        capsys.readouterr().out.splitlines()[-1].startswith("failed: Word accuracy of new-loss against base-loss: +0.3")
    )


def test_a_drop_as_large_as_allowed_is_allowed(runs: Path) -> None:
    """Every prompt drops from 0.9 to 0.88, which is more than 0.02 in floating point."""
    assert 0.9 - 0.88 > 0.02
    assert main(gate(runs, "88", "90", "--max-drop", "0.02")) == 0
    assert main(gate(runs, "88", "90", "--max-drop", "0.0199")) == 1


def test_failed_and_other_prompts_do_not_count_and_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(gate(runs, "failed", "five", "--max-drop", "0.02")) == 0
    printed = capsys.readouterr()
    assert "3 prompts); not worse by more" in printed.out
    assert "1 of 4 images of failed have no score" in printed.err
    assert f"fewer than {stats.MIN_PROMPTS} prompts" in printed.err
    assert main(gate(runs, "one", "five")) == 0
    assert capsys.readouterr().out.startswith("undecided: ")


@pytest.mark.parametrize(
    ("new", "options", "message"),
    [
        ("new", ["--metric", "word_acuracy"], "did you mean 'word_accuracy'"),
        ("new", ["--max-drop", "-1"], "must be a number of at least 0"),
        ("new", ["--max-drop", "nan"], "must be a number of at least 0"),
        ("nowhere", [], "is not a run folder"),
        ("one", ["--against", "RUNS/failed"], "no prompt has a word_accuracy in both runs"),
        ("one", ["--against", "RUNS/one"], "is given twice"),
    ],
)
def test_bad_input(runs: Path, new: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = [option.replace("RUNS", str(runs)) for option in options]
    assert main(gate(runs, new, "base", *options)) == 2
    assert message in capsys.readouterr().err
