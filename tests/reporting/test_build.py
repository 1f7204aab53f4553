"""The page as a parser sees it: complete, escaped, self-contained, and equal to the numbers of the runs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image
from report_page import Page
from reporting.conftest import MakeRun

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.files import read_json, read_jsonl, write_json, write_jsonl
from glmkit.records import Prompt
from glmkit.reporting import build
from glmkit.reporting.build import write_report


def report(tmp_path: Path, *runs: Path) -> Page:
    out = tmp_path / "out" / "report.html"
    write_report(runs, out)
    return Page(out.read_text(encoding="utf-8"))


def test_verdict_scores_and_differences(tmp_path: Path, two: tuple[Path, Path]) -> None:
    page = report(tmp_path, *two)
    summary = json.loads((two[1] / "summary.json").read_text())
    assert "nano + poster_lora is better than nano: word accuracy is higher by" in page.text
    assert "5 prompts" in page.text  # the paired ones
    assert "1 of 6 images of nano have no score" in page.text
    assert f"{summary['scores']['word_accuracy']['value']:.3f}" == "1.000"
    before = json.loads((two[0] / "summary.json").read_text())["scores"]["ned"]
    assert f"{before['value']:.3f} {before['low']:.3f} to {before['high']:.3f}" in page.text
    assert "higher is better" in page.text
    assert "lower is better" in page.text
    assert "glmkit-wa-1" in page.text  # the definition
    assert "Word accuracy by split" in page.text
    for fact in (
        "torch 2.11.0",
        "dad0708c0ffe",
        "pp-ocrv6-small/onnxruntime",
        "2026-01-02 03:04:05 UTC",
        "cpu",
        "320x256 pixels, 30 steps, guidance 1.5",
    ):
        assert fact in page.text


def test_every_image_is_inside_and_every_failure_is_a_card(tmp_path: Path, two: tuple[Path, Path]) -> None:
    page = report(tmp_path, *two)
    assert len(page.prompts) == 6
    images = page.all("img")
    whole = [image for image in images if str(image["alt"]).startswith("Image by")]
    assert len(whole) == 11 + 2 * 5  # the gallery; five prompts at the top, whose images are there in both runs
    assert len(images) == len(whole) + 7  # words without their first letter
    assert all(str(image["src"]).startswith("data:image/") for image in images)
    assert "engine <stopped>" in page.text
    failed = [card for card in page.cards if "error" in card["problems"]]
    assert len(failed) == 1
    assert failed[0]["positions"]["worst"] == 0


def test_a_lost_image_file_is_an_error_card(tmp_path: Path, two: tuple[Path, Path]) -> None:
    (two[1] / "images" / "0.png").unlink()
    (two[1] / "images" / "1.png").write_bytes(b"not an image")
    page = report(tmp_path, *two)
    assert "images/0.png does not exist" in page.text
    assert "images/1.png is not an image" in page.text


def test_nothing_is_loaded_from_outside(tmp_path: Path, two: tuple[Path, Path]) -> None:
    page = report(tmp_path, *two)
    for tag, attributes in page.tags:
        assert tag != "link"
        for name in ("src", "action", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, attributes)
        assert tag == "a" or "href" not in attributes  # a link loads nothing until somebody follows it
    policy = next(str(a["content"]) for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "base-uri 'none'; form-action 'none'" in policy


def test_whatever_a_prompt_contains_stays_text(tmp_path: Path, make_run: MakeRun) -> None:
    nasty = "</script><script>alert(1)</script>\" onmouseover='x' {{ 7 * 191 }} & <b>\u202egnp.exe " + "W" * 500
    prompt = Prompt(nasty, nasty, (nasty,), split=nasty)
    page = report(tmp_path, make_run("a", [(prompt, [nasty[:40]])]), make_run("b", [(prompt, RuntimeError(nasty))]))
    assert len(page.all("script")) == 2
    assert "\u202e" not in str(page.cards)
    assert "alert" not in page.script
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "1337" not in page.text
    assert "{{ 7 * 191 }} & <b>[U+202E]gnp.exe" in page.text
    assert "\u202e" not in page.text


def test_runs_with_different_prompts_are_compared_on_the_common_ones(
    tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]
) -> None:
    a = make_run("a", [(prompt, prompt.texts) for prompt in prompts[:4]])
    b = make_run("b", [(prompt, ["?"]) for prompt in prompts[2:]])
    page = report(tmp_path, a, b)
    assert "4 in nano (a) and 4 in nano (b)" in page.text
    assert "2 common prompts" in page.text
    assert len(page.prompts) == 2
    assert "nano (b) is worse than nano (a): word accuracy is lower by 1.000" in page.text


def test_panels_by_split_and_by_language(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> None:
    """A panel per group where there are several; the numbers behind them in a table."""
    spoken = [replace(prompt, language="zh" if index > 3 else "en") for index, prompt in enumerate(prompts)]
    page = report(tmp_path, make_run("a", [(prompt, prompt.texts) for prompt in spoken]))
    assert "Word accuracy by split" in page.text
    assert "Word accuracy by language" in page.text
    assert len(page.all("svg", **{"class": "panel"})) == 3 * (2 + 2)  # metrics; splits and languages
    assert "en 4 prompts" in page.text
    assert "zh 2 prompts" in page.text
    alone = report(tmp_path, make_run("b", [(prompt, prompt.texts) for prompt in prompts[:4]]))
    assert "by split" not in alone.text
    assert not alone.all("svg", **{"class": "panel"})


def test_a_cosine_that_is_not_compared_is_shown_at_its_image(tmp_path: Path, two: tuple[Path, Path]) -> None:
    scores = read_jsonl(two[1] / "scores.jsonl")
    write_jsonl(
        two[1] / "scores.jsonl", [{**score, "counts": {**score["counts"], "clip_cosine": [0.3, 1]}} for score in scores]
    )
    summary = read_json(two[1] / "summary.json")
    clip = {"metric": "clip_cosine", "weights_sha256": "a" * 64, "model": "CLIP", "clipscore": None}
    counted = {"prompts": 6, "truncated_prompts": 0}
    write_json(two[1] / "summary.json", {**summary, "alignment": {**clip, **counted}})
    page = report(tmp_path, *two)
    assert page.text.count("CLIP cosine 0.300") == 6
    assert "CLIP cosine higher is better" not in page.text


def test_one_run_and_three_runs(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> None:
    runs = [make_run(f"r{n}", [(p, p.texts if i >= n else ["?"]) for i, p in enumerate(prompts)]) for n in (1, 2, 6)]
    alone = report(tmp_path, runs[0])
    assert "nano reaches a word accuracy of" in alone.text
    assert "resolved when" in alone.text
    assert [option.get("value") for option in alone.all("option")][:3] == ["suite", "worst", "alphabetical"]
    three = report(tmp_path, *runs)
    assert "nano (r1) has the best word accuracy of 3 runs" in three.text
    assert "its lead over nano (r2) is not resolved" in three.text
    assert len([image for image in three.all("img") if str(image["alt"]).startswith("Image by")]) == 18 + 12
    for base, other in (("r1", "r2"), ("r1", "r6"), ("r2", "r6")):
        said = f"nano ({other}) against nano ({base}): difference", f"nano ({other}) is worse than nano ({base}) by"
        assert any(sentence in three.text for sentence in said)


@pytest.mark.parametrize("count", [19, 20])
def test_intervals_of_few_prompts_come_with_a_warning(tmp_path: Path, make_run: MakeRun, count: int) -> None:
    many = [Prompt(f"m{number}", "a sign", ("OPEN",), "simple") for number in range(count)]
    page = report(tmp_path, make_run("run", [(prompt, prompt.texts) for prompt in many]))
    assert ("With fewer than 20 prompts bars are too short" in page.text) == (count < 20)


def test_images_are_as_large_as_the_page_may_be(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> None:
    out = tmp_path / "report.html"
    run = make_run("big", [(prompts[0], prompts[0].texts)], side=1200)
    max_mb = 25.0
    for side in (1024, 512):
        write_report([run], out, max_mb=max_mb)
        kind, content = str(Page(out.read_text(encoding="utf-8")).all("img")[0]["src"]).split(";base64,")
        assert kind == "data:image/webp"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.size == (side, side)
        assert out.stat().st_size <= max_mb * 1_000_000
        max_mb = (out.stat().st_size - 1000) / 1_000_000


def test_ids_are_unique_and_anchors_lead_somewhere(tmp_path: Path, two: tuple[Path, Path]) -> None:
    page = report(tmp_path, *two)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(link["href"]) for link in page.all("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    beside = [link for link in links if not link.startswith("#")]
    assert len(beside) == 11 + 10 + 2  # the images, in the gallery and at the top; the data as CSV and JSON
    assert all((tmp_path / "out" / unquote(link)).is_file() for link in beside)
    assert all(image.get("alt") for image in page.all("img"))


def change_kind(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace('"eval"', '"finetune"'))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: [item.unlink() for item in run.glob("*.json*")], "is not a run folder"),
        (lambda run: (run / "summary.json").unlink(), "is not finished"),
        (lambda run: (run / "manifest.json").write_text('["kind"]'), "is not the manifest of a run"),
        (lambda run: change_kind(run / "manifest.json"), "is not an evaluation"),
        (lambda run: (run / "scores.jsonl").write_text('{"id": '), "scores.jsonl, line 1 is not valid JSON"),
        (lambda run: (run / "scores.jsonl").write_text(""), "images.jsonl and scores.jsonl do not fit"),
    ],
)
def test_what_is_not_a_finished_evaluation(
    tmp_path: Path, two: tuple[Path, Path], harm: Callable[[Path], object], message: str
) -> None:
    harm(two[1])
    with pytest.raises(UserError, match=re.escape(message)):
        write_report(two, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_what_cannot_be_compared(
    tmp_path: Path, make_run: MakeRun, prompts: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    sample = [(prompts[0], prompts[0].texts)]
    a, b = make_run("a", sample), make_run("b", sample, suite="cvtg-2k")
    c = make_run("c", [(prompts[1], prompts[1].texts)])
    out = tmp_path / "report.html"
    for runs, message in (
        ([a, b], "runs of different suites cannot be compared"),
        ([a, c], "no prompt in common"),
        ([a, a], "is given twice"),
        ([tmp_path / "nowhere"], "is not a run folder"),
        ([out.with_name("nofolder.txt")], "is not a run folder"),
    ):
        assert main(["report", *map(str, runs), "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_official_scores_stand_alone(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> None:
    """Another engine's reading cannot stand beside them; the same engine's can, and the page says what it lacks."""
    sample = [(prompts[0], prompts[0].texts)]
    runs = [make_run(name, sample) for name in ("whole", "part", "elsewhere")]
    changes: list[dict[str, Any]] = [
        {"family": "official", "ocr": "engine 1", "ocr_limits": ["the engine reads no Greek"]},
        {"family": "formula of B, OCR engine 1", "ocr": "engine 1", "why_not_official": ["1 of 9 images"]},
        {"family": "formula of B, OCR engine 2", "ocr": "engine 2", "why_not_official": ["read by engine 2"]},
    ]
    for run, changed in zip(runs, changes, strict=True):
        write_json(run / "summary.json", {**read_json(run / "summary.json"), **changed})
    page = report(tmp_path, *runs[:2])
    copy = make_run("copy", sample)
    write_json(copy / "summary.json", read_json(runs[1] / "summary.json"))
    assert report(tmp_path, *runs[:2], copy).text.count("are not official") == 1
    assert page.text.count("The engine reads no Greek.") == 1
    assert "are not official (formula of B, OCR engine 1): 1 of 9 images." in page.text
    for mixed in ([runs[0], runs[2]], [runs[2], runs[1], runs[0]]):
        with pytest.raises(UserError, match="official scores and scores read by another OCR engine"):
            write_report(mixed, tmp_path / "mixed.html")


def test_the_command_writes_the_page_and_imports_no_torch(tmp_path: Path, two: tuple[Path, Path]) -> None:
    out = tmp_path / "report.html"
    code = "import sys; from glmkit.cli import main; assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "report", *map(str, two), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    beside = [out.with_suffix(suffix) for suffix in (".csv", ".json")]
    assert done.stdout == f"wrote {out}; its data in {beside[0]} and {beside[1]}\n"
    assert all(path.is_file() for path in beside)
    assert Page(out.read_text(encoding="utf-8")).prompts


def test_images_to_edit_and_to_expect_stand_beside_the_prompt(
    tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]
) -> None:
    """Once per card, condition image first, whichever run has them; prompts without any have none."""
    samples = [(prompt, prompt.texts) for prompt in prompts[:2]]
    runs = make_run("one", samples), make_run("two", samples)
    for name, colour in (("expected", "red"), ("condition_image", "blue")):
        path = runs[1] / "references" / prompts[0].id / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(path)
    page = report(tmp_path, *runs)
    references = [image for image in page.all("img") if ", prompt" in str(image["alt"])]
    assert [image["alt"] for image in references] == ["Condition image, prompt p00", "Expected, prompt p00"]
    colours = []
    for image in references:
        data = base64.b64decode(str(image["src"]).partition(",")[2])
        colours.append(Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0)))
    assert colours == [(0, 0, 255), (255, 0, 0)]
    (runs[1] / "references" / prompts[0].id / "condition_image.png").write_bytes(b"cut")
    with pytest.raises(UserError, match="it writes them anew"):
        report(tmp_path, *runs)


def test_scores_of_more_than_one_have_an_axis_of_their_own(
    tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]
) -> None:
    """Decibels beside shares: the axis ends above the highest value."""
    run = make_run("one", [(prompt, prompt.texts) for prompt in prompts])
    for name in ("scores.jsonl", "summary.json"):
        text = (run / name).read_text(encoding="utf-8").replace('"cer"', '"background_psnr"')
        (run / name).write_text(text, encoding="utf-8")
    scores = [json.loads(line) for line in (run / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    for index, score in enumerate(scores):
        score["counts"]["background_psnr"] = [25 + index, 1]
    (run / "scores.jsonl").write_text("\n".join(map(json.dumps, scores)), encoding="utf-8")
    page = report(tmp_path, run)
    assert "Background PSNR" in page.text
    assert "27.500" in page.text
    for dot in page.all("circle"):
        assert 0 <= float(str(dot["cx"]).removesuffix("%")) <= 100


def test_a_page_on_another_drive_links_with_whole_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, no relative path leads from one drive to another."""
    image = tmp_path / "run" / "a b.png"
    assert build._url(image, tmp_path) == "run/a%20b.png"

    def fail(*_: object) -> None:
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr(os.path, "relpath", fail)
    assert build._url(image, tmp_path) == image.as_uri()


def test_a_misread_word_stands_beside_its_pixels(tmp_path: Path, make_run: MakeRun, prompts: list[Prompt]) -> None:
    """At full resolution, whatever the size of the image on the page; nothing where no boxes are stored."""
    sale = prompts[0]
    run = make_run("run", [(sale, ["SUMNER SALE", "50 % off"])], side=1200)
    crops = [image for image in report(tmp_path, run).all("img") if image["alt"] == "Where it was read"]
    with Image.open(io.BytesIO(base64.b64decode(str(crops[0]["src"]).partition(",")[2]))) as crop:
        assert crop.size == (int(str(crops[0]["width"])), int(str(crops[0]["height"])))
        assert 400 < crop.width < 700  # of the line of 11 letters in 1200 pixels
        with Image.open(run / "images" / "0.png") as image:
            assert crop.height < image.height / 4
    assert len(crops) == 1
    (run / "recognized_lines.jsonl").unlink()
    page = report(tmp_path, run)
    assert [image["alt"] for image in page.all("img") if image["alt"] == "Where it was read"] == []
    assert not page.all("svg", **{"class": "boxes"})


def test_a_large_report_is_a_folder(tmp_path: Path, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Its images are files beside the page; it replaces the file of an earlier report, and nothing else."""
    out = tmp_path / "out" / "page.html"
    command = ["report", *map(str, two), "--out", str(out)]
    assert main(command) == 0
    assert main([*command, "--max-mb", "0.01", "--zip"]) == 0
    page = Page((tmp_path / "out" / "page" / "index.html").read_text(encoding="utf-8"))
    sources = {str(image["src"]) for image in page.all("img")}
    tiles = {f"tiles/{path.name}" for path in (tmp_path / "out" / "page" / "tiles").iterdir()}
    assert sources == tiles
    assert {Path(tile).suffix for tile in tiles} == {".webp"}  # `tiles_detail` counts on their size
    assert all(image["loading"] == "lazy" for image in page.all("img"))
    beside = {str(link["href"]) for link in page.all("a") if not str(link["href"]).startswith("#")}
    assert all((tmp_path / "out" / "page" / unquote(link)).is_file() for link in beside)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["page", "page.zip"]
    with zipfile.ZipFile(tmp_path / "out" / "page.zip") as archive:
        names = {name.removeprefix("page/") for name in archive.namelist()}
    assert names == tiles | {"index.html", "index.csv", "index.json"}
    assert main([*command, "--max-mb", "0.01", "--zip"]) == 0  # both are of a report
    (tmp_path / "out" / "page" / "index.html").write_text("mine")
    assert main([*command, "--max-mb", "0.01"]) == 2
    assert "is not of a report" in capsys.readouterr().err
    assert (tmp_path / "out" / "page" / "index.html").read_text() == "mine"
    assert main([*command, "--max-mb", "0"]) == 2


def test_the_cards_of_many_prompts_wait_as_text(
    tmp_path: Path, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "CARDS_AT_ONCE", 4)
    page = report(tmp_path, *two)
    assert len(page.prompts) == 4
    assert [card.get("html") is None for card in page.cards] == [True] * 4 + [False] * 2
    assert [Page(card["html"]).prompts[0]["id"] for card in page.cards[4:]] == ["prompt-5", "prompt-6"]
    assert "2 more prompts need JavaScript" in page.text


def test_a_page_shows_the_images_of_some_of_many_prompts(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [(Prompt(f"p{number:02d}", f'A sign that says "{number}"', (str(number),)), ()) for number in range(40)]
    run = make_run("many", many)
    monkeypatch.setattr("glmkit.reporting.compare.MAX_SHOWN", 24)
    write_report([run], tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(page.cards) == 24
    assert sorted(card["positions"]["suite"] for card in page.cards) == list(range(24))
    assert "Images are shown of 24 of 40 prompts" in page.text
    assert len(read_json(tmp_path / "page.json")["images"]) == 40
