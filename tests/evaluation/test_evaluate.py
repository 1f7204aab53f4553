"""From images to summary: coverage, resume after a kill, and nothing that is not asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fake_ocr
import pytest

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.evaluation import evaluate as evaluating
from glmkit.evaluation import plan as plans
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.files import read_json, read_jsonl, write_json, write_jsonl
from glmkit.records import Generation, Score, Summary

pytestmark = pytest.mark.usefixtures("ocr_log")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    fake_ocr.write(tmp_path / "images" / "a.png", "red", "fox")
    fake_ocr.write(tmp_path / "images" / "b_0.png", "OWL hare")
    fake_ocr.write(tmp_path / "images" / "b_1.png", "0wl")
    return tmp_path / "images"


def plan(images: Path, **changes: object) -> EvaluationPlan:
    return EvaluationPlan(**{"suite": "text-render", "images": images, "engine": "fake_ocr", **changes})  # type: ignore[arg-type]


def scores(run: Path) -> dict[str, Score]:
    return {row["id"]: Score.from_dict(row) for row in read_jsonl(run / "scores.jsonl")}


@pytest.mark.usefixtures("suite")
def test_scores_and_coverage_of_a_folder(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = evaluate(plan(images), run)
    rows = scores(run)
    assert list(rows) == ["a_0", "a_1", "b_0", "b_1", "c_0", "c_1"]  # as many of each prompt as of b
    assert rows["a_0"].recognized_lines == ("red", "fox")
    assert rows["a_0"].value("ned") == 1
    assert list(rows["b_1"].counts["word_accuracy"]) == [0, 2]
    assert [(rows[name].error, rows[name].counts) for name in ("a_1", "c_0", "c_1")] == [("not in the folder", {})] * 3
    assert (summary.n_scored, summary.n_total, summary.n_prompts) == (3, 6, 2)
    assert summary.scores["word_accuracy"]["value"] == pytest.approx(4 / 6)
    assert summary.scores["ned"]["value"] == pytest.approx((1 + 2 + 2 / 3) / 5)
    assert summary.splits["zh"]["n_scored"] == 0
    assert summary.splits["zh"]["scores"]["ned"]["value"] is None
    assert summary.splits["short"]["scores"] == summary.scores
    assert Summary.from_dict(read_json(run / "summary.json")).scores == summary.scores
    for row in read_jsonl(run / "images.jsonl"):
        generation = Generation.from_dict(row)
        assert generation.file is None or (run / generation.file).is_file()


@pytest.mark.usefixtures("suite")
def test_a_corrupt_image_is_an_error_row_until_it_is_mended(images: Path, tmp_path: Path) -> None:
    (images / "c.png").write_bytes(b"GIF89a")
    run = tmp_path / "run"
    assert evaluate(plan(images), run).n_scored == 3
    assert str(scores(run)["c_0"].error).startswith("OCR: UnidentifiedImageError")
    fake_ocr.write(images / "c.png", "狐 狸")
    assert evaluate(plan(images), run).n_scored == 4
    assert scores(run)["c_0"].value("word_accuracy") == 1


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "a pipe"),
        (Path.mkdir, "a folder"),
        (lambda path: path.symlink_to("nowhere"), "nowhere, which is not there"),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
    ],
    ids=["pipe", "folder", "broken link", "loop of links", "device"],
)
def test_what_is_no_file_is_an_error_row(
    make: Callable[[Path], object], said: str, images: Path, tmp_path: Path
) -> None:
    make(images / "c.png")
    assert evaluate(plan(images), tmp_path / "run").n_scored == 3
    assert said in str(scores(tmp_path / "run")["c_0"].error)


@pytest.mark.usefixtures("suite")
def test_lines_below_the_confidence_are_not_compared(images: Path, tmp_path: Path) -> None:
    fake_ocr.write(images / "a.png", "red fox", confidence=0.49)
    evaluate(plan(images), tmp_path / "run")
    assert scores(tmp_path / "run")["a_0"].recognized_lines == ()
    assert read_jsonl(tmp_path / "run" / "recognized_lines.jsonl")[0]["lines"]


@pytest.mark.usefixtures("suite")
def test_wanted_seeds_split_and_limit(images: Path, tmp_path: Path) -> None:
    evaluate(plan(images, count=2, limit=1), tmp_path / "one")
    assert list(scores(tmp_path / "one")) == ["a_0", "a_1", "c_0", "c_1"]
    evaluate(plan(images, seeds=(1,), limit=1), tmp_path / "named")
    assert list(scores(tmp_path / "named")) == ["a_1", "c_1"]
    evaluate(plan(images, split="short"), tmp_path / "two")
    assert list(scores(tmp_path / "two")) == ["a_0", "a_1", "b_0", "b_1"]
    (images / "b_0.png").rename(images / "b_7.png")
    evaluate(plan(images, split="short"), tmp_path / "three")
    assert list(scores(tmp_path / "three")) == ["a_0", "a_1", "b_1", "b_7"]


@pytest.mark.usefixtures("suite")
def test_a_repeated_run_reads_nothing_again(images: Path, tmp_path: Path, ocr_log: Path) -> None:
    evaluate(plan(images), tmp_path / "run")
    before = (tmp_path / "run" / "summary.json").read_bytes()
    assert len(ocr_log.read_text().splitlines()) == 3
    evaluate(plan(images), tmp_path / "run")
    assert len(ocr_log.read_text().splitlines()) == 3
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


@pytest.mark.usefixtures("suite")
def test_another_run_on_the_same_images_reads_nothing_again(images: Path, tmp_path: Path, ocr_log: Path) -> None:
    evaluate(plan(images), tmp_path / "one")
    evaluate(plan(images, limit=1), tmp_path / "two")
    assert len(ocr_log.read_text().splitlines()) == 3
    assert len(read_jsonl(tmp_path / "two" / "recognized_lines.jsonl")) == 1
    evaluate(plan(images, engine="fake_ocr:another place"), tmp_path / "three")
    assert len(ocr_log.read_text().splitlines()) == 6


def test_a_killed_run_continues_to_the_same_numbers(
    tmp_path: Path, ocr_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = suites.prompts(suites.load("text-render"), "regions", 12)
    for number, prompt in enumerate(prompts):
        fake_ocr.write(tmp_path / "images" / f"{prompt.id}.png", *prompt.texts[number % 2 :], f"noise {number}")
    folder, run = tmp_path / "images", tmp_path / "killed"
    chosen = plan(folder, split="regions", limit=12)
    with monkeypatch.context() as patch:
        patch.setenv("GLMKIT_CACHE", str(tmp_path / "of the whole run"))
        whole = evaluate(chosen, tmp_path / "whole")
    ocr_log.write_text("")

    code = "import sys; from pathlib import Path; from glmkit.evaluation.evaluate import evaluate\n"
    code += "from glmkit.evaluation.plan import EvaluationPlan\n"
    code += f"evaluate({chosen!r}, Path({str(run)!r}))".replace("PosixPath", "Path")
    environment = {**os.environ, "FAKE_OCR_SECONDS": "0.1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    while len(ocr_log.read_text().splitlines()) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (run / "recognized_lines.jsonl").open("a") as journal:
        journal.write('{"sha256": "cut o')
    _wait_for_the_end_of(int(ocr_log.read_text().split()[0]))
    assert not (run / "summary.json").exists()
    read_before = len(read_jsonl(run / "recognized_lines.jsonl", partial=True))
    assert 3 <= read_before < 12
    ocr_log.write_text("")

    resumed = evaluate(chosen, run)
    assert resumed == whole
    assert (run / "scores.jsonl").read_bytes() == (tmp_path / "whole" / "scores.jsonl").read_bytes()
    assert len(ocr_log.read_text().splitlines()) == 12 - read_before
    assert len(read_json(run / "manifest.json")["resumed"]) == 1


def _wait_for_the_end_of(pid: int) -> None:
    """An OCR process must not outlive a killed run."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.01)
    raise AssertionError("the OCR process is still there")


@pytest.mark.parametrize(
    ("folder", "split", "message"),
    [("images", "shrt", "did you mean 'short'"), ("nowhere", None, "image folder .*nowhere does not exist")],
)
@pytest.mark.usefixtures("suite", "images")
def test_bad_plans_leave_no_folder(tmp_path: Path, folder: str, split: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(plan(tmp_path / folder, split=split), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("suite")
def test_a_folder_without_matching_images_says_how_to_name_them(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    fake_ocr.write(tmp_path / "cats" / "cat.png")
    (tmp_path / "cats" / ".DS_Store").touch()
    with pytest.raises(UserError, match=r"found: cat.png\n.*a.png or a_0.png"):
        evaluate(plan(tmp_path / "cats"), tmp_path / "run")
    fake_ocr.write(images / "b.png")
    with pytest.raises(UserError, match="two images of 'b' with seed 0"):
        evaluate(plan(images), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("suite")
def test_images_that_match_no_prompt_are_named(images: Path, tmp_path: Path) -> None:
    for number in range(7):
        fake_ocr.write(images / f"ComfyUI_{number:05d}_.png", "cat")
    (images / "notes.txt").write_text("no image")
    run = tmp_path / "run"
    summary = evaluate(plan(images), run)
    listed = ", ".join(f"ComfyUI_{number:05d}_.png" for number in range(5))
    said = f"7 of 10 image files match no prompt and are not scored: {listed} and 2 more"
    said += " (names like a.png or a_0.png do)"
    assert summary.notes == (said,)
    assert Summary.from_dict(read_json(run / "summary.json")).notes == (said,)
    # Those of prompts that are not asked for belong to a prompt.
    fake_ocr.write(images / "c.png")
    (note,) = evaluate(plan(images, split="zh"), tmp_path / "other").notes
    assert note.startswith("7 of 11 image files match no prompt")


@pytest.mark.usefixtures("suite")
def test_images_of_prompts_that_are_not_asked_for_are_no_strangers(images: Path, tmp_path: Path) -> None:
    assert evaluate(plan(images, limit=1), tmp_path / "run").notes == ()
    fake_ocr.write(images / "B.png")  # beside b_0.png, of a prompt beyond the limit, whose images nobody asks for
    assert evaluate(plan(images, limit=1), tmp_path / "other").notes == ()


def test_other_settings_and_other_prompts_are_refused(suite: str, images: Path, tmp_path: Path) -> None:
    evaluate(plan(images), tmp_path / "run")
    with pytest.raises(UserError, match="limit was None, now 1"):
        evaluate(plan(images, limit=1), tmp_path / "run")
    (path,) = suites.load(suite).files(None)
    rows = read_jsonl(path)
    write_jsonl(path, [{**rows[0], "texts": ["Blue Fox"]}, *rows[1:]])
    with pytest.raises(UserError, match="suite_fingerprint was"):
        evaluate(plan(images), tmp_path / "run")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a"}, "given twice"),
        ({"id": "../a"}, "names an image file"),
        ({"texts": []}, "no expected text"),
        ({"texts": ["x", " "]}, "no expected text"),
    ],
)
def test_broken_prompt_files_are_refused(suite: str, row: dict[str, object], message: str) -> None:
    chosen = suites.load(suite)
    (path,) = chosen.files(None)
    good = read_jsonl(path)
    write_jsonl(path, [*good, {"id": "d", "prompt": "p", "texts": ["x"], **row}])
    with pytest.raises(UserError, match=message):
        suites.prompts(chosen)


@pytest.mark.usefixtures("suite")
def test_rows_are_plain_json(images: Path, tmp_path: Path) -> None:
    evaluate(plan(images), tmp_path / "run")
    text = (tmp_path / "run" / "scores.jsonl").read_text(encoding="utf-8")
    assert json.loads(text.splitlines()[0])["counts"]["word_accuracy"] == [2, 2]
    assert "狐狸" in text


@pytest.mark.usefixtures("suite")
def test_lines_that_are_damaged_are_recognized_again(
    images: Path, tmp_path: Path, ocr_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path / "cache"))
    before = evaluate(plan(images), tmp_path / "run")
    cached = sorted((tmp_path / "cache" / "recognized_lines").rglob("*.json"))
    for path, content in zip(cached, ("", "null", '[{"text": 5}]'), strict=True):
        path.write_text(content)
    (tmp_path / "run" / "recognized_lines.jsonl").write_text('\0\n[]\n{"sha256": 5, "lines": {}}\n{"engine": {}')
    for run in ("run", "other"):
        assert evaluate(plan(images), tmp_path / run) == before
        assert len(ocr_log.read_text().splitlines()) == 6


@pytest.mark.usefixtures("suite")
def test_a_paper_knows_the_seconds_and_the_memory_of_runs(
    tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stand in tables and figures; a run of earlier versions, which has no memory, loads and shows none."""
    monkeypatch.setattr(plans, "DEFAULT_ENGINE", "pixel_ocr")
    write_json(tiny_copy / "glmkit.json", {"defaults": {"size": "64x64", "guidance": 2.5}})
    runs, paper = [tmp_path / "one", tmp_path / "two"], tmp_path / "paper"
    for steps, run in enumerate(runs, start=1):
        command = ["eval", "--suite", "text-render", "--model", str(tiny_copy), "--steps", str(steps)]
        assert main([*command, "--device", "cpu", "--split", "short", "--run", str(run)]) == 0

    def written() -> tuple[list[list[str]], list[str]]:
        assert main(["report", *map(str, runs), "--out", str(tmp_path / "page.html"), "--paper", str(paper)]) == 0
        lines = [line.split(" | ") for line in (paper / "scores.md").read_text().splitlines() if line.startswith("| ")]
        return [line[-2:] for line in lines], sorted(path.stem for path in paper.glob("*.svg"))

    (heads, _, *rows), figures = written()
    assert heads == ["Seconds per image, median ↓", "Peak memory of the process, GiB ↓ |"]
    peaks = [max(row["peak_memory_gib"] for row in read_jsonl(run / "images.jsonl")) for run in runs]
    assert sorted(row[1] for row in rows) == sorted(f"{peak:.2f} |" for peak in peaks)
    assert figures == ["quality_memory", "quality_seconds", "scores"]
    assert "Peak memory of the process, GiB (cpu)" in (paper / "quality_memory.svg").read_text()

    def forget(run: Path) -> None:
        images = [{**row} for row in read_jsonl(run / "images.jsonl")]
        assert all(row.pop("peak_memory_gib") for row in images)
        write_jsonl(run / "images.jsonl", images)

    forget(runs[0])
    (_, _, *rows), figures = written()
    assert sorted(row[1] for row in rows) == sorted([f"{peaks[1]:.2f} |", "– |"])
    assert figures == ["quality_seconds", "scores"]
    forget(runs[1])
    (heads, _, *_), _ = written()
    assert heads[1] == "Seconds per image, median ↓ |"


def everyday_images(folder: Path) -> EvaluationPlan:
    """Five prompts with images of half of their texts."""
    for number, prompt in enumerate(suites.prompts(suites.load("text-render"), "everyday-en", 5)):
        fake_ocr.write(folder / f"{prompt.id}.png", *prompt.texts[: number % 2])
    return plan(folder, split="everyday-en", limit=5)


def test_scores_of_processes_are_those_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = everyday_images(tmp_path / "images")
    alone = evaluate(given, tmp_path / "alone")
    monkeypatch.setattr(evaluating, "worth_it", lambda images: images > 1)
    assert evaluate(given, tmp_path / "shared") == alone
    scores = read_jsonl(tmp_path / "alone" / "scores.jsonl")
    assert read_jsonl(tmp_path / "shared" / "scores.jsonl") == scores
    assert len({str(line["counts"]) for line in scores}) > 2


def test_a_process_that_dies_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = everyday_images(tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "worth_it", lambda images: images > 1)
        patch.setattr(evaluating.scorer, "__name__", "no_such_function")
        with pytest.raises(UserError, match="died"):
            evaluate(given, tmp_path / "run")
    assert not (tmp_path / "run" / "scores.jsonl").exists()
    assert evaluate(given, tmp_path / "run").n_scored == 5
