"""glmkit reference from the command line, and an evaluation that measures distances to what it made."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import fake_ocr
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_clip
from PIL import Image

from glmkit.cli import build_parser, main
from glmkit.evaluation import evaluate, plan, suites
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.evaluation.reference_sets import presets

FIRST = suites.prompts(suites.load("text-render"), "regions", 3)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny_clip.build(tmp_path / "tiny")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(1, 7):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(6)))
    return folder


def add(images: Path, clip: Path) -> list[str]:
    files = ["--images", str(images), "--prompts", str(images / "prompts.txt")]
    return ["reference", "add", "others", *files, "--features", f"clip:{clip}", "--device", "cpu"]


def test_add_and_list(images: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference", "list"]) == 0
    assert "glmkit reference add" in capsys.readouterr().out
    (images / "broken.png").write_bytes(b"no image")
    (images / "again.png").write_bytes((images / "1.png").read_bytes())
    assert main(add(images, clip)) == 0
    made = capsys.readouterr().out
    assert f"others: images {images}" in made
    assert "6 images; 1 repeated, 1 not readable" in made
    assert main(["reference", "list"]) == 0
    assert capsys.readouterr().out == made
    assert main(["reference", "list", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["name"] == "others"
    assert row["features"][0]["conventions"]["weights_sha256"]


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        ("--parquet set.parquet --column image1 --prompt-column prompt", {"cat", "dog"}),
        ("--parquet set.parquet --preset rapidata --model sd3", {"dog"}),
        ("--webdataset set.tar --prompt-column long", {"a long cat"}),
    ],
)
def test_sets_of_every_format(options: str, prompts: set[str], images: Path, clip: Path, place: Path) -> None:
    one, two = ((images / f"{number}.png").read_bytes() for number in (1, 2))
    columns = {"prompt": ["cat", "dog"], "model1": ["dalle-3", "sd3"], "image1": [one, two]}
    pq.write_table(pa.table({**columns, "model2": ["flux", "flux"], "image2": [two, one]}), "set.parquet")
    with tarfile.open("set.tar", "w") as archive:
        for name, data in (("a.png", one), ("a.json", json.dumps({"long": "a long cat"}).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert main(["reference", "add", "theirs", *options.split(), "--features", f"clip:{clip}", "--device", "cpu"]) == 0
    (file,) = (place / "cache" / "references" / "theirs").glob("prompts.jsonl")
    assert {json.loads(line)["prompt"] for line in file.read_text().splitlines()} == prompts


def test_other_images_under_the_same_name_are_refused(
    images: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(add(images, clip)) == 0
    Image.new("RGB", (9, 9)).save(images / "7.png")
    assert main(add(images, clip)) == 2
    said = capsys.readouterr().err
    assert "the reference set others is made of something else" in said
    assert "choose another name" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "one of the arguments --images --parquet --webdataset is required"),
        ("--images nowhere", "nowhere does not exist"),
        ("--images theirs --column image", "--column does nothing beside --images"),
        ("--images theirs --prompt-column text", "--prompt-column does nothing beside --images"),
        ("--parquet tiny --prompts theirs/prompts.txt", "--prompts does nothing beside --parquet"),
        ("--images theirs --model sd3", "--preset rapidata --model sd3"),
        ("--images theirs --preset rapidta", "did you mean 'rapidata'"),
        ("--images theirs --preset rapidata", "preset rapidata reads --parquet"),
        ("--parquet tiny --preset rapidata --column image", "--column does nothing beside --preset rapidata"),
        ("--images theirs --limit 0", "--limit must be at least 1"),
        ("--images theirs --features inceptio", "did you mean 'inception'"),
        ("--images theirs --features clip:nowhere", "unknown CLIP 'nowhere'"),
        ("--images theirs --features inception:nowhere.pth", "Inception weights nowhere.pth do not exist"),
    ],
)
@pytest.mark.usefixtures("images", "clip")
def test_bad_input(options: str, message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["reference", "add", "others", *options.split()])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (place / "cache").exists()


@pytest.fixture
def ours(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of three prompts that the fake engine reads."""
    tests = str(Path(fake_ocr.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((tests, os.environ.get("PYTHONPATH", ""))))
    for prompt in FIRST:
        fake_ocr.write(place / "ours" / f"{prompt.id}.png", *prompt.texts)
    return place / "ours"


def test_an_evaluation_with_alignment_and_distances(images: Path, clip: Path, ours: Path, place: Path) -> None:
    assert main(add(images, clip)) == 0
    plain_plan = EvaluationPlan("text-render", "fake_ocr", split="regions", limit=3, images=ours)
    plain = evaluate.evaluate(plain_plan, place / "run")
    assert not plain.alignment
    assert not plain.distances
    both = replace(plain_plan, clip=str(clip), references=("others",))
    summary = evaluate.evaluate(both, place / "run")
    (distance,) = summary.distances
    assert (distance["reference"], distance["n"], distance["common_prompts"]) == ("others", 3, 0)
    name = summary.alignment["metric"]
    assert dict(summary.scores) == {**plain.scores, name: summary.scores[name]}
    rows = [json.loads(line) for line in (place / "run" / "scores.jsonl").read_text().splitlines()]
    assert all(-1 <= row["counts"][name][0] <= 1 for row in rows)
    written = (place / "run" / "summary.json").read_bytes()
    evaluate.evaluate(both, place / "run")
    assert (place / "run" / "summary.json").read_bytes() == written
    assert json.loads(written)["distances"][0]["self_distance"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [("--reference othres", "did you mean 'others'"), ("--clip glmkti", "unknown CLIP 'glmkti'")],
)
def test_what_is_missing_is_told_before_anything_is_written(
    options: str, message: str, images: Path, clip: Path, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(add(images, clip)) == 0
    command = ["eval", "--suite", "text-render", "--images", str(ours), "--run", "run", "--device", "cpu"]
    assert main([*command, *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_the_table_shows_a_distance_with_its_floor(
    images: Path, clip: Path, ours: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(add(images, clip)) == 0
    monkeypatch.setattr(plan, "DEFAULT_ENGINE", "fake_ocr")
    command = ["eval", "--suite", "text-render", "--split", "regions", "--limit", "3", "--images", str(ours)]
    assert main([*command, "--reference", "others", "--device", "cpu", "--run", "run"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " to others: " in line)
    assert "3 images per side" in line
    assert "the set against itself" in line
    assert "indicative" not in line


def test_the_commands_of_the_guide_parse() -> None:
    guide = Path(__file__).parents[2] / "benchmarks" / "reference_sets.md"
    blocks = re.findall(r"^```bash\n(.*?)^```", guide.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [words for line in lines if (words := shlex.split(line, comments=True))]
    assert len(commands) > 6
    for program, *words in commands:
        assert program == "glmkit"
        arguments = build_parser().parse_args(words)
        assert getattr(arguments, "preset", None) in {None, *presets.PRESETS}


def test_a_set_that_was_killed_continues_to_the_same_bytes(images: Path, clip: Path, place: Path) -> None:
    """SIGKILL as soon as something is written, wherever that is; then the same command again."""
    generator = np.random.default_rng(1)
    for number in range(7, 250):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(images / f"{number}.png")
    process = subprocess.Popen([sys.executable, "-m", "glmkit", *add(images, clip)], stderr=subprocess.DEVNULL)
    references = place / "cache" / "references" / "others"
    while process.poll() is None and not list(references.glob("*/images.jsonl")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    (folder,) = references.glob("*/")
    assert not (folder / "complete.json").exists()
    files = ("features.f32", "images.jsonl", "complete.json")
    assert main(add(images, clip)) == 0
    continued = [(folder / name).read_bytes() for name in files]
    shutil.rmtree(references)
    assert main(add(images, clip)) == 0
    assert [(folder / name).read_bytes() for name in files] == continued
