"""The public text suites: official files and layouts in, the published numbers out, under the right name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import fake_ocr
import public_files
import pytest
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.metrics.cvtg import WordScore, cvtg_scores
from glmkit.evaluation.ocr.engines import cvtg_paddleocr, qwen2_5_vl
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.evaluation.suites.shared.base import OfficialProtocol, family, why_not_official
from glmkit.evaluation.suites.shared.layouts import GridTile, PromptNames, by_name, grids_by_name
from glmkit.files import read_jsonl
from glmkit.generation.images import save_png
from glmkit.records import Prompt, Score

pytestmark = pytest.mark.usefixtures("ocr_log")


@pytest.mark.parametrize("style", ["CVTG-Style", "CVTG-style"])
def test_cvtg_reads_the_official_files(tmp_path: Path, style: str) -> None:
    prompts = suites.prompts(suites.load("cvtg-2k"), data=public_files.cvtg(tmp_path, style))
    assert len(prompts) == 16
    assert [(prompt.id, prompt.split) for prompt in prompts[6:10]] == [
        ("CVTG-5-0", "CVTG-5"),
        ("CVTG-5-7", "CVTG-5"),
        ("CVTG-Style-2-0", "CVTG-Style-2"),
        ("CVTG-Style-2-7", "CVTG-Style-2"),
    ]
    assert prompts[0].texts == ("Red Fox", "Owl")


def test_cvtg_from_files_to_scores(tmp_path: Path) -> None:
    """Words: red fox owl; red red hare!. Read: RED, fax. Hits 1 of 3 and 2 of 3."""
    data, images = public_files.cvtg(tmp_path / "data"), public_files.cvtg_images(tmp_path / "images", "RED fax")
    (images / "CVTG" / "2" / "7.png").unlink()
    summary = evaluate(EvaluationPlan("cvtg-2k", "fake_ocr", data, images=images), tmp_path / "run")
    assert (summary.n_scored, summary.n_total) == (15, 16)
    assert summary.splits["CVTG-2"]["scores"]["word_accuracy"]["value"] == pytest.approx(1 / 3)
    assert summary.splits["CVTG-3"]["scores"]["word_accuracy"]["value"] == pytest.approx(1 / 2)
    assert summary.scores["word_accuracy"]["value"] == pytest.approx((8 * 1 + 7 * 2) / 45)
    assert summary.family == "formula of CVTG-2K, OCR engine fake"
    assert summary.why_not_official[-1] == "15 of 2000 images (1 per prompt)"
    rows = {row["id"]: Score.from_dict(row) for row in read_jsonl(tmp_path / "run" / "scores.jsonl")}
    assert rows["CVTG-2-7_0"].error == "not in the folder"
    texts = {prompt.id: prompt.prompt for prompt in suites.prompts(suites.load("cvtg-2k"), data=data)}
    areas: dict[str, list[WordScore]] = {}
    for row in rows.values():
        if row.error is None:
            areas.setdefault(row.split, []).extend(cvtg_scores(texts[row.prompt_id], list(row.recognized_lines)))
    areas["all"] = [word for words in areas.values() for word in words]
    for area, words in areas.items():
        values = summary.scores if area == "all" else summary.splits[area]["scores"]
        accuracy = sum(word.hit for word in words) / len(words)
        ned = sum(word.similarity for word in words) / len(words)
        assert (values["word_accuracy"]["value"], values["ned"]["value"]) == pytest.approx((accuracy, ned), abs=1e-14)
    fox = 1 - 1 / (3 + 1e-5)
    assert rows["CVTG-3-0_0"].counts["ned"][0] == pytest.approx(1 + fox + _owl(), abs=1e-12)


def test_every_prompt_file_is_part_of_the_settings(tmp_path: Path) -> None:
    data, images = public_files.cvtg(tmp_path / "data"), public_files.cvtg_images(tmp_path / "images")
    plan = EvaluationPlan("cvtg-2k", "fake_ocr", data, limit=1, images=images)
    evaluate(plan, tmp_path / "run")
    for file in ("CVTG/2.json", "CVTG-Style/5.json"):
        changed = data / file
        before = changed.read_text(encoding="utf-8")
        changed.write_text(before.replace("Owl", "Elk"), encoding="utf-8")
        with pytest.raises(UserError, match="suite_fingerprint was"):
            evaluate(plan, tmp_path / "run")
        changed.write_text(before, encoding="utf-8")
    evaluate(plan, tmp_path / "run")


def _owl() -> float:
    """The nearest of red, fax, cvtg, 3, 0 to owl: no letter in common, so the greatest string, red: 3 edits."""
    return 1 - 3 / (3 + 1e-5)


def test_complete_cvtg_on_the_official_engine_is_official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suites.load("cvtg-2k")
    monkeypatch.setattr(
        type(suite), "official", OfficialProtocol("CVTG-2K", "fake", {}, prompts=16, images_per_prompt=1)
    )
    data, images = public_files.cvtg(tmp_path / "data"), public_files.cvtg_images(tmp_path / "images")
    plan = EvaluationPlan("cvtg-2k", "fake_ocr", data, images=images)
    assert evaluate(plan, tmp_path / "whole").family == "official"
    part = evaluate(replace(plan, split="CVTG-2"), tmp_path / "part")
    assert (part.family, part.why_not_official) == (
        "formula of CVTG-2K, OCR engine fake",
        ("2 of 16 images (1 per prompt)",),
    )
    name = next(name for name in sorted(images.rglob("*.png")))
    with Image.open(name) as image:
        text = image.text  # type: ignore[attr-defined]
        save_png(name, image.convert("RGB"), {**text, "reuse": "2", "rewritten_from": "a sign"})
    short = evaluate(plan, tmp_path / "short")
    why = ("generated by a shortcut: prompt rewritten, reuse 2",)
    assert (short.n_scored, short.why_not_official) == (16, why)


def test_what_official_means() -> None:
    official = OfficialProtocol(
        "B", "engine 1", {"w": "00"}, prompts=2, images_per_prompt=2, files={"p.json": "ff"}, grids=True
    )
    scores = [Score(f"{name}_{seed}", name, seed, "all", "en", ("x",)) for name in "ab" for seed in (0, 1)]
    tiles = {(name, seed): GridTile(Path("a.webp"), 0, seed) for name in "ab" for seed in (0, 1)}
    identity, files = EngineIdentity("engine 1", {"w": "00"}), {"p.json": "ff"}

    def reasons(**changes: object) -> tuple[str, ...]:
        given = {"official": official, "identity": identity, "files": files, "scores": scores, "images": tiles}
        return why_not_official(**{**given, **changes})  # type: ignore[arg-type]

    assert reasons() == ()
    assert reasons(identity=EngineIdentity("engine 2", {"w": "00"})) == ("read by engine 2, not by engine 1",)
    assert reasons(identity=EngineIdentity("engine 1", {"w": "01"})) == ("other weights: w",)
    assert reasons(identity=EngineIdentity("engine 1", {"w": "00", "more": "1"})) == ("other weights: more",)
    assert reasons(identity=replace(identity, versions="numpy 2")) == ()
    assert reasons(files={}) == ("p.json is not the published file",)
    assert reasons(images=None) == ("the images were not cut from the benchmark's grids",)
    failed = [*scores[:-1], replace(scores[-1], error="not in the folder")]
    assert reasons(scores=failed) == ("3 of 4 images (2 per prompt)",)
    assert reasons(scores=scores[:2]) == ("2 of 4 images (2 per prompt)",)
    twice = [*scores[:-1], replace(scores[-1], id="a_2", prompt_id="a")]
    assert reasons(scores=twice) == ("4 of 4 images (2 per prompt)",)


def test_names_of_scores() -> None:
    suite = suites.load("longtext-en")
    assert family(suite, EngineIdentity("x"), ()) == "official"
    assert family(suite, EngineIdentity("x"), ("why",)) == "formula of LongText-Bench (en), OCR engine x"
    assert family(suites.load("text-render"), EngineIdentity("x"), ()) == "read by x"
    assert {suites.load(name).official.engine for name in ("longtext-zh", "oneig-text-en")} == {qwen2_5_vl.NAME}  # type: ignore[union-attr]
    assert suites.load("cvtg-2k").official.weights == cvtg_paddleocr.WEIGHTS  # type: ignore[union-attr]


def test_longtext_with_repeats(tmp_path: Path) -> None:
    """English: fresh bread daily open; 3 and 4 of 4 read. Café text: the phrase of the empty image does not count."""
    data, images = public_files.longtext(tmp_path / "data"), tmp_path / "images"
    fake_ocr.write(images / "0003_0.png", "Fresh, bread", "DAILY")
    fake_ocr.write(images / "0003_1.png", "open daily", "bread fresh open")
    fake_ocr.write(images / "0120_0.png", "No text recognized.")
    summary = evaluate(EvaluationPlan("longtext-en", "fake_ocr", data, images=images), tmp_path / "run")
    assert summary.scores["text_score"]["value"] == pytest.approx(7 / 10)
    assert summary.splits["poster"]["scores"]["text_score"]["value"] == 0
    assert "text_prompts.jsonl is not the published file" in summary.why_not_official
    fake_ocr.write(tmp_path / "zh" / "0003_0.png", "每曰新鲜", "bREAD")
    chinese = evaluate(EvaluationPlan("longtext-zh", "fake_ocr", data, images=tmp_path / "zh"), tmp_path / "run zh")
    assert chinese.scores["text_score"]["value"] == pytest.approx(3 / 9)  # the case of Latin letters counts


def test_oneig_grids_are_cut_and_black_tiles_are_missing(tmp_path: Path) -> None:
    data = public_files.oneig(tmp_path / "data")
    public_files.grid(tmp_path / "images" / "000.webp", ("red", "lime", "blue", "black"))
    fake_ocr.write(tmp_path / "images" / "001_0.png", "It s anb", "addCriterion")
    run = tmp_path / "run"
    summary = evaluate(EvaluationPlan("oneig-text-en", "fake_ocr", data, images=tmp_path / "images"), run)
    images = [run / "images" / f"000_{number}.jpg" for number in range(3)]
    for path, colour in zip(images, [(254, 0, 0), (0, 255, 1), (0, 0, 254)], strict=True):
        with Image.open(path) as tile:
            assert (tile.format, tile.size, tile.getpixel((20, 15))) == ("JPEG", (40, 30), colour)
    rows = {row["id"]: Score.from_dict(row) for row in read_jsonl(run / "scores.jsonl")}
    assert list(rows) == [f"00{number}_{tile}" for number in range(3) for tile in range(4)]
    assert rows["000_3"].error == "no image: this tile of the grid is black"
    assert rows["002_0"].error == "not in the folder"
    # the cell ["It's a\nb"] is compared as Its anb
    counts = {"oneig_text_en": [1 - 0.01 * 0.5, 1], "ed": [1, 1], "cr": [0, 1], "wac": [1, 2]}
    assert rows["001_0"].counts == {**counts, "word_precision": [0, 3]}
    assert "the images were not cut from the benchmark's grids" in summary.why_not_official
    before = [path.stat().st_mtime_ns for path in images]
    evaluate(EvaluationPlan("oneig-text-en", "fake_ocr", data, images=tmp_path / "images"), run)
    assert [path.stat().st_mtime_ns for path in images] == before


def test_oneig_pools_before_it_combines(tmp_path: Path) -> None:
    data, images = public_files.oneig(tmp_path / "data"), tmp_path / "images"
    fake_ocr.write(images / "000_0.png", "Big Sale Now")
    fake_ocr.write(images / "001_0.png", "Its a")
    summary = evaluate(EvaluationPlan("oneig-text-en", "fake_ocr", data, limit=2, images=images), tmp_path / "run")
    values = {name: score["value"] for name, score in summary.scores.items()}
    expected = {"ed": 1, "cr": 1 / 2, "wac": 4 / 5, "oneig_text_en": 1 - 1 / 100 * 1 / 2 * 1 / 5}
    assert values == pytest.approx({**expected, "word_precision": 4 / 5})


def test_how_long_an_answer_may_be(tmp_path: Path) -> None:
    data = public_files.oneig(tmp_path)
    suite = suites.load("oneig-text-en")
    assert [suite.max_answer_tokens(prompt) for prompt in suites.prompts(suite, data=data)] == [128, 128, 256]
    chinese = suites.prompts(suites.load("oneig-text-zh"), data=data)
    assert (chinese[0].language, chinese[0].texts) == ("zh", ("中文 ABC",))


def test_a_reading_belongs_to_the_answer_that_was_allowed(tmp_path: Path) -> None:
    """The same image for a short and a long text, read once each, in any number of runs."""
    data = public_files.oneig(tmp_path / "data")
    for name in ("000", "002"):
        fake_ocr.write(tmp_path / "images" / f"{name}_0.png", does="tokens")
    for run in ("one", "two"):
        evaluate(EvaluationPlan("oneig-text-en", "fake_ocr", data, images=tmp_path / "images"), tmp_path / run)
        rows = {row["prompt_id"]: row["recognized_lines"] for row in read_jsonl(tmp_path / run / "scores.jsonl")}
        assert rows == {"000": ["128"], "001": [], "002": ["256"]}


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("cvtg-2k", "CVTG/2.json"),
        ("longtext-en", "text_prompts.jsonl"),
        ("longtext-zh", "text_prompts_zh.jsonl"),
        ("oneig-text-en", "text_content.csv"),
        ("oneig-text-zh", "text_content_zh.csv"),
    ],
)
def test_missing_prompt_files_say_what_to_fetch(name: str, needs: str, tmp_path: Path) -> None:
    for data, message in ((None, f"{name} needs the prompt file"), (tmp_path, "does not exist")):
        with pytest.raises(UserError, match=message) as error:
            suites.prompts(suites.load(name), data=data)
        assert f" with {needs}" in str(error.value)
        assert ", then --data " in str(error.value)


def test_own_suites_take_no_prompt_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="brings its own prompts"):
        suites.prompts(suites.load("text-render"), data=tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("CVTG/3.json", "[]", "not a prompt file of CVTG-2K"),
        ("CVTG/3.json", json.dumps({"data_list": [{"index": 1}]}), "needs index and prompt"),
        (
            "text_prompts.jsonl",
            '{"prompt_id": 1, "prompt": "p", "text": "x", "category": "c"}',
            "line 1: text must be a list",
        ),
        (
            "text_prompts.jsonl",
            '{"prompt_id": 1, "prompt": "p", "text": [5], "category": "c"}',
            r"text\[0\] must be text",
        ),
        (
            "text_prompts.jsonl",
            '{"prompt_id": "1", "prompt": "p", "text": [], "category": "c"}',
            "prompt_id must be a whole",
        ),
        ("text_prompts.jsonl", "", "no prompts in .*text_prompts.jsonl"),
        ("text_prompts.jsonl", "[]", "no prompts in .*text_prompts.jsonl"),
        ("text_content.csv", "a,b\n1,2\n", "needs lines with the columns"),
        ("text_content.csv", ",id,prompt_en,text_content\n0,000,p\n", "does not fit its columns"),
        *(
            ("text_content.csv", f",id,prompt_en,text_content\n0,000,p,{cell}\n", "not a list of texts")
            for cell in ("[broken", "[]", "['']", "[5]", "['!?']", "[" * 5000)
        ),
    ],
)
def test_broken_prompt_files(file: str, content: str, message: str, tmp_path: Path) -> None:
    name = {"C": "cvtg-2k", "p": "longtext-en", "c": "oneig-text-en"}[file[0] if file[0] == "C" else file[5]]
    for write in (public_files.cvtg, public_files.longtext, public_files.oneig):
        write(tmp_path)
    (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        suites.prompts(suites.load(name), data=tmp_path)


def test_folders_without_a_image_and_with_two(tmp_path: Path) -> None:
    suite, data = suites.load("cvtg-2k"), public_files.cvtg(tmp_path / "data")
    prompts = suites.prompts(suite, data=data)
    (tmp_path / "images" / "CVTG" / "2").mkdir(parents=True)
    with pytest.raises(UserError, match=r"names like CVTG/2/0.png"):
        suite.find(tmp_path / "images", prompts)
    for suffix in (".png", ".jpg"):
        fake_ocr.write(tmp_path / "images" / "CVTG" / "2" / f"0{suffix}")
    with pytest.raises(UserError, match=r"two images of 'CVTG-2-0'.*\n.*0.jpg and 0.png"):
        suite.find(tmp_path / "images", prompts)
    oneig = suites.load("oneig-text-en")
    fake_ocr.write(tmp_path / "mixed" / "000.png")
    fake_ocr.write(tmp_path / "mixed" / "000_1.png")
    with pytest.raises(UserError, match="a grid and single images of '000'"):
        oneig.find(tmp_path / "mixed", suites.prompts(oneig, data=public_files.oneig(tmp_path / "oneig")))


@pytest.mark.parametrize("around", ["", "CVTG-2K", "CVTG-2K-main/CVTG-2K/files"])
@pytest.mark.parametrize("subsets", [("CVTG", "cvtg-style"), ("CVTG",), ("cvtg-style",)])
@pytest.mark.parametrize("name", ["{}.png", "{}.JPG", "{:03d}.webp", "{}_0.avif"])
def test_cvtg_in_folders_that_people_have(around: str, subsets: tuple[str, ...], name: str, tmp_path: Path) -> None:
    data = public_files.cvtg(tmp_path / "data" / around, "cvtg-style")
    for other in {"CVTG", "cvtg-style"} - set(subsets):
        shutil.rmtree(data / other)
    suite = suites.load("cvtg-2k")
    prompts = suites.prompts(suite, data=tmp_path / "data")
    assert len(prompts) == 8 * len(subsets)
    for subset in subsets:
        path = tmp_path / "images" / around / subset / "2" / name.format(7)
        path.parent.mkdir(parents=True)
        path.touch()
        (path.parent / "._7.png").touch()
    assert {name for name, _ in suite.find(tmp_path / "images", prompts)} == {
        f"{subset.replace('cvtg-s', 'CVTG-S')}-2-7" for subset in subsets
    }
    assert suites.prompts(suite, data=data / subsets[0])[:8] == prompts[:8]


@pytest.mark.parametrize(
    ("suite", "name", "found"),
    [
        ("longtext-en", "3_2.png", ("0003", 2)),
        ("longtext-en", "textbench/images/0003_2.jpeg", ("0003", 2)),
        ("longtext-en", "00120.bmp", ("0120", 0)),
        ("oneig-text-en", "1.webp", ("001", 0)),
        ("oneig-text-en", "images/text/mine/001.png", ("001", 0)),
        ("oneig-text-en", "2_3.png", ("002", 3)),
        ("oneig-text-en", "images/text/OTHER/001_2.PNG", ("001", 2)),
    ],
)
def test_images_under_names_that_people_give(suite: str, name: str, found: tuple[str, int], tmp_path: Path) -> None:
    public_files.longtext(public_files.oneig(tmp_path / "data" / "clone" / "scripts"))
    path = tmp_path / "images" / name
    path.parent.mkdir(parents=True)
    path.touch()
    prompts = suites.prompts(suites.load(suite), data=tmp_path / "data")
    assert min(suites.load(suite).find(tmp_path / "images", prompts)) == found
    (file,) = EvaluationPlan(suite, data=tmp_path / "data").prompt_files()
    assert file in ("text_prompts.jsonl", "text_content.csv")


def test_an_id_is_found_under_names_like_it_unless_two_are() -> None:
    names = PromptNames(["Grüße-1", "a-b", "A_b", "one", "one-2"])
    assert names.find("gru\u0308\u00dfe_01") is None
    assert names.find_alike("gru\u0308\u00dfe_01") == "Grüße-1"
    assert (names.find("a-b"), names.find_alike("a b")) == ("a-b", None)


def test_a_seed_is_no_part_of_an_id_that_is_like_it(tmp_path: Path) -> None:
    """one_2 is the third image of one, although a prompt is called one-2; a grid under another case is cut, too."""
    for name in ("one_2.png", "ONE-2.png", "Four.PNG", "Simple_002.WEBP", "SIMPLE 003_4.JPeG"):
        (tmp_path / name).touch()
    prompts = [Prompt(name, "a sign") for name in ("one", "one-2", "four", "simple-002", "simple-003")]
    found = {("one", 2), ("one-2", 0), ("four", 0), ("simple-002", 0), ("simple-003", 4)}
    assert set(by_name(tmp_path, prompts)) == found
    grids = grids_by_name(tmp_path, prompts)
    assert [seed for name, seed in grids if name == "four"] == [0, 1, 2, 3]


def test_images_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    suite = suites.load("oneig-text-en")
    prompts = suites.prompts(suite, data=public_files.oneig(tmp_path / "data"))
    for model in ("a", "b"):
        (tmp_path / "images" / model).mkdir(parents=True)
        (tmp_path / "images" / model / "000.webp").touch()
    with pytest.raises(UserError, match=r"(?s)several folders hold images.*name one of them.*/a"):
        suite.find(tmp_path / "images", prompts)


def test_images_of_an_earlier_run_can_be_scored(tmp_path: Path) -> None:
    """They are named after prompt ids, not as the benchmark names them."""
    data = public_files.cvtg(tmp_path / "data")
    fake_ocr.write(tmp_path / "run" / "images" / "CVTG-Style-2-0_0.png", "red fox", "owl")
    found = suites.load("cvtg-2k").find(tmp_path / "run" / "images", suites.prompts(suites.load("cvtg-2k"), data=data))
    assert list(found) == [("CVTG-Style-2-0", 0)]
