"""Suites with questions: official files and layouts in, scores and their names out, killed and resumed."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chat_endpoint
import pytest
import question_files
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from processes import start_dying
from public_files import grid
from question_files import TWO_TYPES, golden, judged, scores

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.evaluation import endpoints, suites
from glmkit.evaluation import plan as plans
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.judges import engines
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.files import read_json, read_jsonl
from glmkit.posters.render import render
from glmkit.posters.simple import simple_prompts
from glmkit.records import Summary


def test_dpg_from_a_grid_to_scores(tmp_path: Path) -> None:
    """Tiles of one prompt 1, .75, .25 and 0; the other prompt lacks an answer, and the third its image."""
    data = question_files.dpg(tmp_path / "data", dict.fromkeys(("226", "coco1", "x"), question_files.DPG_ROWS))
    for name in ("226", "coco1"):
        grid(tmp_path / "images" / f"{name}.png", ("red", "green", "blue", "white"))
    replies = ("yyyy", "yyny", "nyyy", "nynn")
    answers = {
        ("226", seed, str(number)): {"y": "yes", "n": "no"}[letter]
        for seed, letters in enumerate(replies)
        for number, letter in enumerate(letters, start=1)
    }
    answers |= {("coco1", seed, number): "Yes" for seed in range(4) for number in "123"}
    judge = golden(tmp_path / "answers.jsonl", answers)
    summary = judged("dpg", tmp_path / "run", judge, data=data, images=tmp_path / "images")
    assert (summary.n_scored, summary.n_total, summary.n_prompts) == (4, 12, 1)
    assert (summary.scores["dpg"]["value"], summary.no_share) == (50, 5 / 16)
    assert summary.ocr == ""
    assert summary.family == "questions of DPG-Bench, judge answers of people"
    assert summary.why_not_official == (
        "judged by answers of people, not by mPLUG-large VQA",
        "4 of 4260 images (4 per prompt)",
    )
    assert "12 of 28 answers are neither 'yes' nor 'no' letter by letter, such as 'Yes'" in summary.notes[0]
    found = scores(tmp_path / "run")
    assert found["coco1_0"].error == "judge: the file has no answer to question 4"
    assert found["x_0"].error == "not in the folder"
    with Image.open(tmp_path / "run" / "images" / "226_1.png") as tile:
        assert (tile.size, tile.format, tile.getpixel((5, 5))) == ((40, 30), "PNG", (0, 128, 0))
    assert Summary.from_dict(read_json(tmp_path / "run" / "summary.json")) == summary


def test_oneig_grids_of_one_model_in_folders_by_class(tmp_path: Path) -> None:
    item = ({"1": "a?", "2": "b?"}, {"1": [0], "2": [1]})
    data = question_files.oneig(tmp_path / "data", {"000": item, "001": item})
    grid(tmp_path / "images" / "anime" / "mine" / "000.webp", ("red", "black", "blue", "white"))
    answers = {("anime-000", seed, question): "Yes" for seed in (0, 3) for question in "12"}
    answers |= {("anime-000", 2, "1"): "No", ("anime-000", 2, "2"): "Yes"}
    judge = golden(tmp_path / "answers.jsonl", answers)
    summary = judged("oneig-alignment-en", tmp_path / "run", judge, data=data, images=tmp_path / "images")
    assert (summary.n_scored, summary.n_total) == (3, 8)
    assert summary.scores["oneig_alignment"]["value"] == pytest.approx(2 / 3)  # 1, black, 0 and 1: black is no image
    assert summary.why_not_official[-1] == "3 of 2780 images (4 per prompt)"
    assert scores(tmp_path / "run")["anime-000_1"].error == "no image: this tile of the grid is black"
    assert (tmp_path / "run" / "images" / "anime-000_0.jpg").exists()
    grid(tmp_path / "images" / "anime" / "other" / "000.webp", ("red", "black", "blue", "white"))
    suite = suites.load("oneig-alignment-en")
    with pytest.raises(UserError, match="several models"):
        suite.find(tmp_path / "images", suites.prompts(suite, data=data))


def test_what_a_judge_is_sent(tmp_path: Path) -> None:
    question_files.dpg(tmp_path, {"p": question_files.DPG_ROWS})
    question_files.oneig(tmp_path, {"000": ({"1": "Is it?"}, {"1": [0]})})
    question_files.tiif(tmp_path, TWO_TYPES)
    sent = {}
    for name in ("dpg", "dpg-first-word", "oneig-alignment-en", "tiif"):
        suite = suites.load(name)
        sent[name] = suite.messages(suites.prompts(suite, data=tmp_path)[0])  # type: ignore[attr-defined]
    assert [message.text for message in sent["dpg"]] == [f"Is p like {number}?" for number in range(1, 5)]
    assert sent["dpg-first-word"][0].text == "Is p like 1? Answer with yes or no."
    assert sent["oneig-alignment-en"][0].text == "Is it?. Please answer 'Yes' or 'No' only."
    assert all(message.image_first and not message.system for name in sent if name != "tiif" for message in sent[name])
    (whole,) = sent["tiif"]
    assert (whole.system, whole.image_first) == ("You are a professional image critic.", False)
    assert "\nIs there a star?\nIs it red?\n" in whole.text
    assert whole.questions == ("Is there a star?", "Is it red?")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "need a judge"),
        ({"suite": "text-render", "judge": "posters"}, "asks no questions"),
        ({"suite": "text-render", "answers": Path("x")}, "asks no questions"),
        ({"answers": Path("nowhere")}, "does not exist"),
        ({"answers": Path("."), "judge": "posters"}, "come without images"),
        ({"suite": "dpg", "answers": Path(".")}, "publishes no answers"),
    ],
)
def test_judges_that_do_not_fit(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    question_files.tiif(tmp_path, TWO_TYPES)
    question_files.dpg(tmp_path, {"p": question_files.DPG_ROWS})
    plan = {"suite": "tiif", "data": None if more.get("suite") == "text-render" else tmp_path, **more}
    if "judge" in plan:
        plan["judge"] = engines.resolve(plan["judge"])
    with pytest.raises(UserError, match=message):
        evaluate(EvaluationPlan(**plan), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("dpg", "dpg_bench.csv", "item_id,text\n1,2\n3,4\n", "needs lines with the columns"),
        ("dpg", "dpg_bench.csv", "item_id,text\n1,2\n", "holds no questions"),
        ("tiif", "testmini_prompts/negation_prompts.jsonl", '{"type": "negation"}', "short_description is missing"),
        ("tiif", "testmini_eval_prompts/negation_eval_prompts.jsonl", "", "do not fit"),
        (
            "tiif",
            "testmini_eval_prompts/negation_eval_prompts.jsonl",
            '{"yn_question_list": ["a?"], "yn_answer_list": ["maybe"]}',
            "an answer is unknown",
        ),
        ("oneig-alignment-en", "OneIG-Bench.csv", "a,b\n1,2\n", "needs lines with the columns"),
        ("oneig-alignment-en", "scripts/alignment/Q_D/anime.json", '{"9": {}}', "has no prompt 9"),
        ("oneig-alignment-en", "scripts/alignment/Q_D/anime.json", '{"000": {"question": "{"}}', "not JSON|JSON"),
        (
            "oneig-alignment-en",
            "scripts/alignment/Q_D/anime.json",
            json.dumps({"000": {"question": {"1": "a?"}, "dependency": {"1": ["0"]}}}),
            "dependency",
        ),
    ],
)
def test_broken_question_files(name: str, file: str, content: str, message: str, tmp_path: Path) -> None:
    question_files.tiif(tmp_path, TWO_TYPES)
    question_files.dpg(tmp_path, {"p": question_files.DPG_ROWS})
    question_files.oneig(tmp_path, {"000": ({"1": "a?"}, {"1": [0]})})
    (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        suites.prompts(suites.load(name), data=tmp_path)


@pytest.mark.parametrize(
    "name", ["dpg", "dpg-first-word", "tiif", "tiif-test", "oneig-alignment-en", "oneig-alignment-zh"]
)
def test_missing_question_files_say_what_to_fetch(name: str, tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(UserError, match=r"git clone https://github\.com/.*, then --data "):
            suites.prompts(suites.load(name), data=data)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("oneig", "did you mean one of oneig-alignment-en, oneig-alignment-zh, oneig-diversity-en"),
        ("gedit", "did you mean one of gedit-cn, gedit-en\\?"),
        ("oneig-aligment-en", "did you mean 'oneig-alignment-en'\\? Known: cvtg-2k"),
    ],
)
def test_the_name_of_several_suites(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        suites.load(name)


def start(run: Path, cache: str, *options: object, suite: str = "tiif", **environment: str) -> subprocess.Popen[bytes]:
    return start_dying(run.parent / cache, "eval", "--suite", suite, "--run", run, *options, **environment)


def poster_questions(folder: Path, count: int) -> Path:
    """Questions about nano's posters in the files of TIIF-Bench: shape, background and text, right and wrong ones."""
    types: dict[str, list[tuple[str, dict[str, str]]]] = {"shape+color": [], "negation": [], "text": []}
    for _, scene, caption in simple_prompts("simple")[:count]:
        shape = scene.shape
        there = f"Is there a {shape.colour} {shape.kind}?" if shape.kind != "none" else "Is there any shape?"
        types["shape+color"].append(
            (caption, {there: "yes" if shape.kind != "none" else "no", f"Is the background {scene.background}?": "yes"})
        )
        types["negation"].append(
            (
                caption,
                {"Is the background brown?": "yes" if scene.background == "brown" else "no", "Is there a cat?": "no"},
            )
        )
        types["text"].append((caption, {f"Is the text '{text}' in the image?": "Yes" for text in scene.texts}))
    return question_files.tiif(folder, types)


def poster_images(folder: Path, count: int) -> Path:
    """Posters that show what was asked, in which the fake OCR engine reads their texts."""
    for number, (_, scene, _) in enumerate(simple_prompts("simple")[:count]):
        info = PngInfo()
        for name, value in {"does": "read", "confidence": "0.9"}.items():
            info.add_text(name, value)
        for row, text in enumerate(scene.texts):
            info.add_itxt(f"line{row}", text)
        for kind in ("shape+color", "negation", "text"):
            path = folder / kind / "nano" / "short_description" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            render(scene).save(path, pnginfo=info)
    return folder


@pytest.mark.usefixtures("ocr_log")
def test_a_whole_run_by_pixels_killed_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Posters answer what was asked of them; a question that is none of theirs is an error, never a no."""
    data, images = poster_questions(tmp_path / "data", 3), poster_images(tmp_path / "images", 3)
    plan = EvaluationPlan(
        "tiif", "fake_ocr", data, "short", 7, images=images, judge="glmkit.evaluation.judges.engines.posters"
    )
    summary = evaluate(plan, tmp_path / "whole")
    assert (summary.n_scored, summary.n_total) == (5, 7)  # 3 of shape+color, 2 of text; negation asks for a cat
    assert summary.scores["tiif_short"]["value"] == 1
    assert (summary.scores["gned"]["value"], summary.scores["text_recall"]["value"]) == (0, 1)
    assert {score.error for score in scores(tmp_path / "whole").values() if score.error} == {
        "judge: this is no question about a poster: Is there a cat?"
    }
    options = ("--data", data, "--images", images, "--judge", "posters", "--split", "short", "--limit", "7")
    killed = start(tmp_path / "run", "cache of a killed run", *options, ENGINE="fake_ocr", DIES_AT="20").wait()
    assert killed == -signal.SIGKILL
    assert 0 < len(read_jsonl(tmp_path / "run" / "answers.jsonl")) < 5
    assert not (tmp_path / "run" / "scores.jsonl").exists()
    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path / "cache of a killed run"))
    evaluate(plan, tmp_path / "run")
    for name in ("summary.json", "scores.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def oneig_questions(folder: Path) -> Path:
    """Questions about any poster in the files of OneIG-Bench, the second one below the first."""
    asked = {"1": "Is there any shape?", "2": "Is the background teal?"}
    return question_files.oneig(folder, {"000": (asked, {"1": [0], "2": [1]})})


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("suite", "options", "images", "benchmark"),
    [
        ("tiif", ("--limit", "4"), 8, "TIIF-Bench testmini"),
        ("oneig-alignment-en", ("--split", "anime", "--limit", "1", "--count", "2"), 2, "OneIG-Bench alignment (en)"),
    ],
    ids=["tiif", "oneig"],
)
def test_a_whole_run_of_nano_killed_at_random_and_resumed(
    suite: str, options: Sequence[str], images: int, benchmark: str, tmp_path: Path
) -> None:
    data = poster_questions(tmp_path / "data", 2) if suite == "tiif" else oneig_questions(tmp_path / "data")
    given = ("--data", data, "--model", "nano", "--steps", "6", "--judge", "posters", "--device", "cpu", *options)
    moments = random.Random(7)
    assert start(tmp_path / "whole", "of the whole run", *given, suite=suite).wait() == 0
    for _ in range(3):
        process = start(tmp_path / "run", "cache", *given, suite=suite)
        while not (tmp_path / "run" / "manifest.json").exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 8))
        process.kill()
        process.wait()
    assert start(tmp_path / "run", "cache", *given, suite=suite).wait() == 0
    for name in ("summary.json", "scores.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    summary = Summary.from_dict(read_json(tmp_path / "run" / "summary.json"))
    assert summary.n_scored > 0
    assert summary.n_total == images
    assert summary.family == f"questions of {benchmark}, judge poster world, pixels and OCR"


@pytest.mark.usefixtures("ocr_log")
def test_a_whole_run_at_an_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """429s, garbage, refusals and slow answers; the second run asks what failed, and nothing else."""
    lines = [
        ("a cat", {f"Is there a {word} cat?": "yes", "Is it a dog?": "no"})
        for word in ("busy", "garbage", "red", "cut", "refused")
    ]
    data = question_files.tiif(tmp_path / "data", {"shape+color": lines})
    for number in range(5):
        path = tmp_path / "images" / f"shape-color-short-{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    monkeypatch.setattr(plans, "DEFAULT_ENGINE", "fake_ocr")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(endpoints, "_pause", lambda _error, _tries: 0.01)
    command = ["eval", "--suite", "tiif", "--data", str(data), "--images", str(tmp_path / "images"), "--split", "short"]
    command += ["--judge", "openai:gpt-4o", "--run", str(tmp_path / "run")]
    with chat_endpoint.running(seconds=0.2) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        assert main(command) == 0
        output = capsys.readouterr()
        first = (tmp_path / "run" / "summary.json").read_bytes()
        assert len(server.asked) == 5 + 2
        server.asked.clear()
        assert main(command) == 0
        assert len(server.asked) == 2
    assert (tmp_path / "run" / "summary.json").read_bytes() == first
    summary = Summary.from_dict(read_json(tmp_path / "run" / "summary.json"))
    assert (summary.n_scored, summary.n_total, summary.no_share) == (2, 5, 0)
    assert summary.scores["tiif_short"]["value"] == 0.5
    assert "gpt-4o at http://127.0.0.1:" in summary.judge
    assert "(gpt-4o-2026-11-29) tiif-1" in summary.judge
    assert re.match(r"the endpoint's answers are of \d{4}-\d\d-\d\d", summary.notes[0])
    errors = {name: score.error or "" for name, score in scores(tmp_path / "run").items()}
    assert "ends inside its thinking" in errors["shape-color-short-3_0"]
    assert "safety system" in errors["shape-color-short-4_0"]
    assert "2/5     0 %" in output.out
    assert "per minute" in output.err
    assert "tokens, 0.00 $" in output.err
    assert "secret" not in output.out + output.err + first.decode()
