"""Sweeps on the model of toy size: every combination once, what is shared, the recommendation, and bad input."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from plain_runs import write_run
from tiny_adapter import make_adapter

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.evaluation import plan
from glmkit.evaluation.sweep import parse_numbers
from glmkit.files import read_json, read_jsonl, write_json, write_jsonl
from glmkit.records import SWEEP, Combination
from glmkit.reporting.sweep import write_sweep


@pytest.fixture
def trained(tiny_copy: Path, tmp_path: Path) -> Path:
    """A run of fine-tuning, with adapters of both components, and two kept decoder checkpoints before its 6 steps."""
    run = tmp_path / "trained"
    for component in ("decoder", "autoregressive"):
        make_adapter(tiny_copy, run / "adapter", component)
    for steps in (2, 4):
        make_adapter(tiny_copy, run / "kept", "decoder", seed=steps)
        (run / "checkpoints" / "decoder").mkdir(parents=True, exist_ok=True)
        (run / "kept" / "decoder").rename(run / "checkpoints" / "decoder" / f"{steps:06}")
    write_json(run / "manifest.json", {})
    losses = {"loss": 1.0}
    write_json(run / "decoder.json", {"steps": 6, "before": losses, "after": losses, "seconds": 1, "peak_bytes": None})
    return run


@pytest.fixture
def command(
    trained: Path,
    tiny_copy: Path,
    tmp_path: Path,
    ocr_log: Path,
    suite: str,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    assert ocr_log.exists()
    monkeypatch.setattr(plan, "DEFAULT_ENGINE", "pixel_ocr")
    write_json(tiny_copy / "glmkit.json", {"defaults": {"size": "64x64", "steps": 2, "guidance": 2.5}})
    model = ["--model", str(tiny_copy), "--device", "cpu", "--adapter", str(trained / "adapter")]
    return ["sweep", "--suite", suite, "--split", "short", *model, "--run", str(tmp_path / "sweep")]


def words(run: Path) -> float:
    """Words that were read per word that was expected, from the records of a run."""
    counts = [row["counts"]["word_accuracy"] for row in read_jsonl(run / "scores.jsonl")]
    return float(sum(read for read, _ in counts) / sum(expected for _, expected in counts))


def test_a_sweep_without_a_folder_has_one_by_name(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """More values of the same adapter go on in the same one; other settings have another."""
    monkeypatch.chdir(tmp_path)
    *unnamed, _, _ = command
    unnamed += ["--guidance", "1", "--limit", "1", "--json"]
    for values in (["0"], ["0", "1"]):
        assert main([*unnamed, "--weights", *values]) == 0
    (folder,) = {json.loads(line)["run"] for line in capsys.readouterr().out.splitlines()}
    assert folder.startswith(f"reports{os.sep}sweep-")
    assert len(read_json(tmp_path / folder / "sweep.json")) == 2
    assert main([*unnamed, "--weights", "0", "--count", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] != folder


def test_one_seed_is_said_to_be_one(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`--seeds 2` is seed 2, as in every command, and neither two seeds nor silent."""
    for options, images, said in (
        (["--seeds", "2"], 2, "seed 2 only; two seeds: --count 2, or --seeds 0,1\n"),
        (["--seeds", "0,1"], 4, ""),
        (["--count", "2"], 4, ""),
    ):
        assert main([*command, *options, "--dry-run", "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["images"] == images  # of two prompts
        assert (said in printed.err) if said else ("only" not in printed.err)


def test_every_combination_once(
    command: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--weights", "0:1:0.5", "--checkpoints", "all", "--guidance", "1", "2.5"]
    assert main([*command, *grid, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    # Without the adapter once, else three checkpoints at two weights; all at two guidances, on two prompts.
    assert (planned["combinations"], planned["images"]) == (14, 28)
    # The AR model has its adapter at no weight, 0.5 and 1; two prompts.
    assert planned["prior_tokens"] == 3 * 2
    assert planned["seconds"] > 0
    assert not (tmp_path / "sweep").exists()

    few = ["--weights", "0", "1", "--guidance", "1", "2.5"]
    assert main([*command, *few, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    folder = tmp_path / "sweep"
    listed = read_json(folder / SWEEP)
    swept = [(one["steps"], one["weight"], one["guidance"]) for one in listed]
    assert swept == [(0, 0, 1), (0, 0, 2.5), (6, 1, 1), (6, 1, 2.5)]
    assert len(list((folder / "prior_tokens").iterdir())) == 2 * 2  # prompts; with and without the AR adapter
    last = listed[-1]["adapters"]
    assert last == [str(trained / "adapter" / "autoregressive"), str(trained / "adapter" / "decoder")]

    # The recommendation is the best by hand, and its file is what `glmkit eval` takes.
    values = [words(folder / Combination.from_dict(one).folder) for one in listed]
    result = read_json(folder / "result.json")
    assert [one["score"]["value"] for one in result["combinations"]] == pytest.approx(values)
    best = listed[values.index(max(values))]
    assert {key: result["recommended"][key] for key in best} == best
    options = shlex.split((folder / "recommended.txt").read_text())
    adapters = [word for one in best["adapters"] for word in ("--adapter", one)]
    assert options == [*adapters, "--guidance", f"{best['guidance']:g}"]
    assert printed["adapters"] == best["adapters"]
    page = (folder / "index.html").read_text()
    assert (page.count("<svg"), page.count("<img ")) == (1, 4)

    # Another checkpoint is added, with the prior tokens that are there, and nothing is repeated.
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert main([*command, "--checkpoints", "2", "6"]) == 0
    again = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert {path: again[path] for path in files} == files
    assert {path.parents[1].name for path in again.keys() - files.keys()} == {"step-2_weight-1_guidance-2.5"}
    assert len(list((folder / "prior_tokens").iterdir())) == 2 * 2
    assert read_json(folder / SWEEP)[0]["adapters"][1] == str(trained / "checkpoints" / "decoder" / "000002")


def test_a_dry_run_counts_what_the_sweep_generates(
    command: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal requests share their prior tokens, edits too; a prompt that cannot be used has no image."""
    Image.new("RGB", (64, 64), (200, 40, 40)).save(tmp_path / "red.png")
    sign: dict[str, Any] = {"prompt": "a sign 'Owl'", "texts": ["Owl"]}
    edits = [{**sign, "condition_images": [name]} for name in ("red.png", "missing.png")]
    write_jsonl(tmp_path / "own.jsonl", [edits[0], sign, sign, {**sign, "seed": 1}, edits[1]])
    own = ["--prompts", str(tmp_path / "own.jsonl"), *command[command.index("--model") :]]
    own = [
        "sweep",
        *own,
        "--adapter",
        str(trained / "adapter" / "decoder"),
        "--weights",
        "0",
        "1",
        "--guidance",
        "1",
        "2",
    ]
    assert main([*own, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert main(own) == 0
    folder = tmp_path / "sweep"
    images = [path for path in folder.rglob("*.png") if path.parent.name == "images"]
    prior_tokens = [*(folder / "prior_tokens").iterdir()]
    assert said.startswith(f"4 combinations, {len(images)} images; prior tokens for {len(prior_tokens)} of them")
    assert (len(images), len(prior_tokens)) == (4 * 4, 3)


def test_bad_input(command: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        ("--weights half", "--weights takes numbers"),
        ("--weights 1:0:0.1", "--weights is no range"),
        ("--weights 0:1:0", "--weights is no range"),
        ("--guidance 1:2", "--guidance takes numbers"),
        ("--checkpoints 3", "of these: 2, 4, 6"),
        ("--metric word_acuracy", "did you mean 'word_accuracy'"),
        (f"--adapter {trained}/adapter/decoder:0.5", "the weights of a sweep are --weights"),
        (f"--adapter {trained}/adapter/autoregressive --checkpoints all", "kept no checkpoints"),
        ("--split shrt", "did you mean 'short'"),
        ("--limit 0", "limit must be at least 1"),
        ("--weights 0:999:1 --guidance 1 2", "too many combinations"),
    ):
        assert main([*command, *options.split()]) == 2, options
        assert message in capsys.readouterr().err
    (trained / "checkpoints" / "autoregressive" / "000002").mkdir(parents=True)
    assert main(command) == 2
    assert f"--adapter {trained}/adapter/autoregressive --with {trained}/adapter/decoder" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
    assert main(["sweep", "--suite", "text-render", "--weights", "0.5", "--run", str(tmp_path / "sweep")]) == 2
    assert "are those of an adapter" in capsys.readouterr().err


def test_numbers_are_those_that_were_written() -> None:
    assert parse_numbers(["0.1:0.7:0.1", "0.3", "2"], "--weights") == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 2]
    with pytest.raises(UserError, match="first:last:step"):
        parse_numbers(["nan"], "--weights")


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_the_recommendation_and_what_may_be_as_good(tmp_path: Path, direction: str) -> None:
    """40 prompts: weight 0.5 is best, 0.75 differs on two prompts in both directions, and 1 is worse on 20."""
    best = [1.0] * 30 + [0.0] * 10
    scores: dict[float, list[Any]] = {
        0.25: ["no memory"] * 40,
        0.5: best,
        0.75: [*best[:28], 0.0, 0.0, 1.0, *best[31:]],
        1: [0.0] * 20 + best[20:],
    }
    listed = []
    for weight, values in scores.items():
        one = Combination(6, weight, 1.5, ("/home/me/my run/adapter",))
        written = [v if isinstance(v, str) else ((v if direction == "higher" else 1 - v), 1) for v in values]
        write_run(tmp_path / one.folder, written, name=one.name, direction=direction, images=True)
        listed.append(one.to_dict())
    write_json(tmp_path / SWEEP, listed)
    page, result = write_sweep(tmp_path)
    assert result.best.combination.weight == 0.5
    assert [arm.combination.weight for arm in result.unresolved] == [0.75]
    assert [arm.resolved for arm in result.arms] == [False, False, False, True]
    assert "step 6, weight 0.5, guidance 1.5 is recommended" in result.sentence
    sign = "−" if direction == "higher" else "+"
    said = f"The next one, step 6, weight 0.75, guidance 1.5, may be as good: its difference of {sign}0."
    assert said in result.sentence
    text = page.read_text()
    assert text.count("<img ") == 3
    assert "/home/me" not in text
    assert "--adapter &#39;my run/adapter&#39; --guidance 1.5" in text
    strong = write_sweep(tmp_path, prefer="strongest")[1]
    assert (strong.best.combination.weight, strong.recommended.combination.weight) == (0.5, 0.75)
    assert "weight 0.75, guidance 1.5 is recommended: the strongest that may be as good as step 6" in strong.sentence
    write_json(tmp_path / SWEEP, [listed[1], listed[3]])
    assert (
        "All others are worse by a resolved difference, the next one is step 6, weight 1"
        in write_sweep(tmp_path)[1].sentence
    )
    write_json(tmp_path / SWEEP, listed[:1])
    with pytest.raises(UserError, match="no image of the sweep has a score"):
        write_sweep(tmp_path)
