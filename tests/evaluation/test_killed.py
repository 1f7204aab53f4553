"""glmkit eval, killed again and again by SIGKILL, ends in the same files; several at once do the work of one."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import fake_ocr
import images_endpoint
import pytest
from processes import start_dying

from glmkit.evaluation import suites
from glmkit.files import read_json

PROMPTS = suites.prompts(suites.load("text-render"), "regions", 4)
RESULTS = ("summary.json", "scores.jsonl")


def start(run: Path, cache: str, *options: object, **environment: str) -> subprocess.Popen[bytes]:
    command = ["eval", "--suite", "text-render", "--split", "regions", "--limit", str(len(PROMPTS)), "--run", run]
    return start_dying(run.parent / cache, *command, *options, ENGINE="fake_ocr", **environment)


def results(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in RESULTS]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, prompt in enumerate(PROMPTS):
        fake_ocr.write(tmp_path / "images" / f"{prompt.id}.png", *prompt.texts[number % 2 :], f"noise {number}")
    return tmp_path / "images"


def test_killed_at_every_write(images: Path, tmp_path: Path, ocr_log: Path) -> None:
    """The n-th process dies at its n-th write, and the next one continues; in the end nothing tells them apart."""
    assert start(tmp_path / "whole", "of the whole run", "--images", images).wait() == 0
    ocr_log.write_text("")
    deaths = 0
    while (code := start(tmp_path / "run", "cache", "--images", images, DIES_AT=str(deaths + 1)).wait()) != 0:
        assert code == -signal.SIGKILL
        deaths += 1
        assert not (tmp_path / "run" / "summary.json").exists()
    assert deaths > 5
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    reads = Counter(line.split()[1] for line in ocr_log.read_text().splitlines())
    assert len(reads) == len(PROMPTS)
    assert reads.total() <= len(PROMPTS) + deaths


@pytest.mark.thorough
@pytest.mark.usefixtures("ocr_log")
def test_killed_at_random_moments_while_an_endpoint_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill costs at most the images that were being asked for; what was saved is never asked for again."""
    moments, kills = random.Random(5), 3
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    options = ("--model", "openai:some-model", "--size", "64x64", "--count", "8")
    with images_endpoint.running(seconds=0.1) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        start(tmp_path / "whole", "of the whole run", *options).wait()
        server.asked.clear()
        killed = 0
        for _ in range(kills):
            before = len(server.asked)
            process = start(tmp_path / "run", "cache", *options)
            while len(server.asked) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
            killed += process.wait() == -signal.SIGKILL  # on a busy machine the last one may have ended already
        start(tmp_path / "run", "cache", *options).wait()
    assert killed > 0
    images = 8 * len(PROMPTS)
    assert len(list((tmp_path / "run" / "images").glob("[!.]*.png"))) == images
    assert images <= len(server.asked) <= images + 4 * killed
    assert results(tmp_path / "run") == results(tmp_path / "whole")


@pytest.mark.usefixtures("ocr_log")
def test_processes_of_a_launcher_share_a_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    options = ("--model", "openai:some-model", "--size", "64x64", "--count", "6")
    with images_endpoint.running(seconds=0.1) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        both = [start(tmp_path / "run", "cache", *options, RANK=rank, WORLD_SIZE="2") for rank in ("0", "1")]
        assert len({process.wait() for process in both}) == 1
    assert len(server.asked) == len(list((tmp_path / "run" / "images").glob("*.png"))) == 6 * len(PROMPTS)


@pytest.mark.thorough
@pytest.mark.usefixtures("ocr_log")
def test_killed_while_a_model_draws(tiny_model: Path, tmp_path: Path) -> None:
    options = ("--model", tiny_model, "--size", "64x64", "--steps", "1", "--device", "cpu")
    start(tmp_path / "whole", "of the whole run", *options).wait()
    assert start(tmp_path / "run", "cache", *options, DIES_AT="8").wait() == -signal.SIGKILL
    assert 0 < len(list((tmp_path / "run").glob("images/*.png"))) < len(PROMPTS)
    start(tmp_path / "run", "cache", *options).wait()
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    for path in (tmp_path / "whole" / "images").iterdir():
        assert (tmp_path / "run" / "images" / path.name).read_bytes() == path.read_bytes()


def test_two_at_once_do_the_work_of_one(images: Path, tmp_path: Path, ocr_log: Path) -> None:
    """The same command twice: every image is read once. Another run folder on the same images reads nothing."""
    both = [start(tmp_path / "run", "cache", "--images", images, FAKE_OCR_SECONDS="0.1") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(ocr_log.read_text().splitlines()) == len(PROMPTS)
    assert start(tmp_path / "other", "cache", "--images", images).wait() == 0
    assert len(ocr_log.read_text().splitlines()) == len(PROMPTS)
    assert results(tmp_path / "other") == results(tmp_path / "run")
    assert read_json(tmp_path / "run" / "summary.json")["n_scored"] == len(PROMPTS)
