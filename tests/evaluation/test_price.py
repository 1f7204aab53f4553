"""What quicker settings cost: differences by hand, nothing done twice, and what bad input says before work starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkit.cli import main
from glmkit.evaluation import plan
from glmkit.files import read_json, read_jsonl, write_json
from glmkit.reporting.price import price_table


@pytest.fixture(autouse=True)
def setting(tiny_copy: Path, ocr_log: Path, suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose own settings are quick, a suite of three prompts, and an engine that reads any image."""
    assert (ocr_log.exists(), suite) == (True, "text-render")
    monkeypatch.setattr(plan, "DEFAULT_ENGINE", "pixel_ocr")
    write_json(tiny_copy / "glmkit.json", {"defaults": {"size": "64x64", "steps": 6, "guidance": 2.5}})


def command(model: Path, folder: Path, *settings: str) -> list[str]:
    out = ["--out", str(folder / "price.json"), "--figure", str(folder / "price.svg")]
    of_model = ["--model", str(model), "--device", "cpu", "--repeats", "1", "--count", "2", "--limit", "1"]
    return ["bench", "price", *of_model, "--run", str(folder / "runs"), *out, "--settings", *settings]


def words(run: Path) -> float:
    """Words that were read per word that was expected, from the records of a run."""
    counts = [row["counts"]["word_accuracy"] for row in read_jsonl(run / "scores.jsonl")]
    return float(sum(read for read, _ in counts) / sum(expected for _, expected in counts))


def test_every_setting_is_paired_with_exact(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = command(tiny_copy, tmp_path, "reuse=2, guided=0.5", "steps=3,precision=8bit")
    assert main(argv) == 0
    result = read_json(tmp_path / "price.json")
    assert capsys.readouterr().out.strip() == price_table(result)
    rows = {row["setting"]: row for row in result["settings"]}
    assert list(rows) == ["exact", "reuse=2,guided=0.5", "precision=8bit,steps=3"]
    assert [row["passes"] for row in rows.values()] == [12, 8, 6]
    assert (result["n_prompts"], result["words"], result["count"]) == (2, 2 * (2 + 1), 2)
    runs = tmp_path / "runs" / "all"
    for name, row in rows.items():
        change = row["differences"]["word_accuracy"]
        assert change["difference"] == pytest.approx(words(runs / name) - words(runs / "exact"))
        assert change["n"] == 2
        assert set(row["splits"]) == {"short", "zh"}
        assert row["seconds"]["denoising"] > 0
    figure = (tmp_path / "price.svg").read_text()
    assert all(name in figure for name in rows)
    assert [row["precision"] for row in rows.values()] == ["exact", "exact", "8bit"]
    # Settings share the prior tokens of their precision, and a second call generates and reads nothing.
    assert len(list((tmp_path / "runs" / "prior_tokens").iterdir())) == 2 * 4
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(files) == 3 * 4
    assert main(argv) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == files


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["reus=2"], "did you mean 'reuse'"),
        (["reuse"], "reuse takes a number"),
        (["reuse=two"], "reuse takes a number"),
        (["precision=8bits"], "did you mean '8bit'"),
        (["steps=4", "reuse=5"], "reuse must be 2 or 3"),
        (["steps=4,reuse=2"], "so few steps leave nothing to a reuse of 2"),
        (["steps=6"], "is exact again"),
        (["steps=4", "steps=4"], "is steps=4 again"),
        (["steps=4", "--figure", "a.gif"], "--figure a.svg"),
        (["steps=4", "--split", "shrt"], "did you mean 'short'"),
        (["steps=4", "--repeats", "0"], "--repeats must be at least 1"),
    ],
)
def test_bad_input(
    settings: list[str], message: str, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tiny_copy, tmp_path, *settings)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
