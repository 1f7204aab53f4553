"""Rewards in processes of their own: the same numbers, the error of one image when a process dies, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from glmkit import runs
from glmkit.config.rewards import RewardSettings
from glmkit.evaluation import suites
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.training.rl import scoring
from glmkit.training.rl.rewards import Rewards, RewardSample
from glmkit.training.rl.scoring import Failed, ScoringProcesses

WEIGHTS = {"attributes": 0.5, "content": 0.3}
WHERE = {name: f"glmkit.training.rl.rewards.{name}" for name in WEIGHTS}


@pytest.fixture(scope="module")
def samples() -> list[RewardSample]:
    """Noise that is more and more of one colour, for prompts of which attributes knows something."""
    generator = np.random.default_rng(0)
    prompts = [one for one in suites.prompts(suites.load("text-render"), "everyday-en") if one.named][:6]
    found = []
    for number, prompt in enumerate(prompts):
        pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        base = Image.fromarray(pixels.copy())
        pixels[: 10 * number] = (255, 192, 203)  # light pink, as the first prompt asks
        image = Image.fromarray(pixels)
        lines = [RecognizedLine(prompt.texts[0], 1.0, (8, 8, 50, 20))]
        found.append(RewardSample(prompt, image, base, lines, lines))
    return found


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScoringProcesses]:
    monkeypatch.setattr(runs, "cores", lambda: 1)
    scorers = ScoringProcesses(WHERE)
    yield scorers
    scorers.close()


def test_processes_find_what_this_one_finds(samples: list[RewardSample], processes: ScoringProcesses) -> None:
    with Rewards(RewardSettings(weights=WEIGHTS)) as rewards:
        here = [{name: scoring.ask(rewards._rewards[name], sample) for name in WEIGHTS} for sample in samples]
    assert [one.result() for one in [processes.submit(sample) for sample in samples]] == here
    assert len({str(one) for one in here}) > 2


def test_a_process_that_dies_costs_one_image(samples: list[RewardSample], processes: ScoringProcesses) -> None:
    before = processes.submit(samples[0]).result()
    (process,) = processes._running
    process.send_signal(signal.SIGKILL)
    process.wait()
    died = processes.submit(samples[0]).result()
    assert all(isinstance(one, Failed) and "died" in one.reason for one in died.values())
    assert processes.submit(samples[0]).result() == before


def test_no_process_survives_a_killed_parent() -> None:
    code = (
        "import os, pickle, subprocess, sys; from glmkit.training.rl.scoring import ScoringProcesses\n"
        f"one = ScoringProcesses({WHERE!r})._start(); print(one.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    child = int(parent.stdout)
    for _ in range(600):
        if not _runs(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the process still runs")


def test_many_images_on_many_cores_are_worth_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "cores", lambda: 16)
    assert [scoring.worth_it(count) for count in (63, 64)] == [False, True]
    monkeypatch.setattr(runs, "cores", lambda: 2)
    assert not scoring.worth_it(512)


def test_rewards_are_the_same_with_and_without_processes(
    samples: list[RewardSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RewardSettings(weights={"content": 1.0, "kept": 0.5})
    with Rewards(settings) as rewards:
        alone = rewards.score(samples)
        assert rewards._processes is None
    monkeypatch.setattr(scoring, "worth_it", lambda images: images > 1)
    with Rewards(settings) as rewards:
        assert rewards.score(samples) == alone
        assert rewards._processes is not None
        running = list(rewards._processes._running)
    assert all(process.poll() is not None for process in running)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False
    return True
