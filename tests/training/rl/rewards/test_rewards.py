"""How rewards are found, put together, and what becomes of failures; OCR is a stand-in that reads image files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from glmkit import config, runs, worker_processes
from glmkit.config import RewardSettings
from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.ocr.lines import OcrError, RecognizedLine
from glmkit.records import Prompt
from glmkit.training.rl import rewards, scoring
from glmkit.training.rl.rewards import Rewards, RewardSample, attributes
from glmkit.worker_processes import WorkerProcesses

OPEN = Prompt("open", "A poster that says 'OPEN'", ("OPEN",))


def poster(shapes: int = 3) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(image)
    for number in range(shapes):
        pen.rectangle((4 + 20 * number, 8, 16 + 20 * number, 50), fill=("navy", "teal", "red")[number])
    return image


@pytest.fixture
def content() -> Iterator[Rewards]:
    with Rewards(RewardSettings(weights={"content": 2.0})) as found:
        yield found


def test_content_compares_with_the_base_image(content: Rewards) -> None:
    images = [poster(3), poster(2), poster(0)]
    whole, less, empty = content.score([RewardSample(OPEN, image, poster(3)) for image in images])
    assert whole.parts == {"content": 1.0}
    assert whole.total(content.weights) == 2.0
    assert 0.5 < less.parts["content"] < 0.9
    assert (empty.parts, empty.is_empty) == ({"content": 0.0}, True)


def test_content_says_nothing_where_there_was_nothing(content: Rewards) -> None:
    (score,) = content.score([RewardSample(OPEN, poster(3), poster(0))])
    assert (score.parts, score.error) == ({}, None)


def test_content_needs_the_base_image(content: Rewards) -> None:
    alone, pair = content.score([RewardSample(OPEN, poster()), RewardSample(OPEN, poster(), poster())])
    assert (alone.parts, alone.error) == ({}, "there is no image of the base model to compare it with")
    assert pair.error is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"texts": 1}, "did you mean 'text'"),
        ({"text:now": 1}, "takes nothing after its name"),
        ({"content:now": 1}, "takes nothing after its name"),
    ],
)
def test_wrong_rewards_are_named(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rewards.check(RewardSettings(weights=weights))


@pytest.mark.parametrize("values", [{"weights": {}}, {"weights": {"text": 0}}, {"weights": {"text": 1}, "orc": "x"}])
def test_wrong_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="RewardSettings"):
        config.RewardSettings.model_validate(values)


def test_an_empty_image_earns_nothing_and_a_failure_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    line = RecognizedLine("OPEN", 0.9, (0, 0, 20, 10))

    class Reads:
        def recognize(self, images: dict[object, int]) -> Iterator[tuple[object, object]]:
            for path in reversed(images):  # in any order
                is_blank = np.asarray(Image.open(str(path))).min() == 255
                yield path, OcrError("it hung") if is_blank else (line,)

        def close(self) -> None: ...

    monkeypatch.setattr(rewards, "OcrProcesses", lambda _, **__: Reads())
    with Rewards(RewardSettings(weights={"text": 1, "content": 1})) as both:
        images = [poster(3), poster(1).crop((0, 0, 64, 9)), poster(0)]
        good, empty, failed = both.score([RewardSample(OPEN, image, poster(3)) for image in images])
    assert good.parts == {"text": 1.0, "content": 1.0}
    assert (empty.parts, empty.is_empty) == ({"text": 0.0, "content": 0.0}, True)
    assert (failed.error, failed.parts, failed.total(both.weights)) == ("OCR: it hung", {}, None)


class Gives:
    """A reward that gives what it is told, or raises it."""

    reads_text = needs_base = gates = is_slow = False
    identity = ""

    def __init__(self, what: float | Exception) -> None:
        self.what = what

    def score(self, sample: RewardSample) -> float | None:
        del sample
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (float("nan"), "content: nan is no reward"),
        (float("inf"), "content: inf is no reward"),
        (RuntimeError("the answer\nis cut"), "content: RuntimeError: the answer"),
    ],
)
def test_what_is_no_reward_is_the_error_of_the_image(what: float | Exception, error: str, content: Rewards) -> None:
    content._rewards["content"] = Gives(what)
    assert content.score([RewardSample(OPEN, poster(), poster())])[0].error == error


def test_what_concerns_all_images_ends_the_run(content: Rewards) -> None:
    content._rewards["content"] = Gives(UserError("the endpoint refuses the key"))
    with pytest.raises(UserError, match="refuses the key"):
        content.score([RewardSample(OPEN, poster(), poster())])


def test_a_prompt_that_names_nonsense_has_an_error() -> None:
    nonsense = replace(OPEN, named={"colours": "navy"})
    with pytest.raises(ValueError, match="no field 'colours'"):
        attributes.load("", "cpu").score(RewardSample(nonsense, poster()))


@pytest.fixture(scope="module")
def noise() -> list[RewardSample]:
    """Noise that is more and more of one colour, for prompts of which attributes knows something."""
    generator = np.random.default_rng(0)
    prompts = [one for one in suites.prompts(suites.load("text-render"), "everyday-en") if one.named][:6]
    found = []
    for number, prompt in enumerate(prompts):
        pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        base = Image.fromarray(pixels.copy())
        pixels[: 10 * number] = (255, 192, 203)  # light pink, as the first prompt asks
        lines = [RecognizedLine(prompt.texts[0], 1.0, (8, 8, 50, 20))]
        found.append(RewardSample(prompt, Image.fromarray(pixels), base, lines, lines))
    return found


def test_processes_find_what_this_one_finds(noise: list[RewardSample]) -> None:
    where = {name: f"glmkit.training.rl.rewards.{name}" for name in ("attributes", "content")}
    score = scoring.scorer(*(f"{name}={module}" for name, module in where.items()))
    here = [score(sample) for sample in noise]
    given = (f"{name}={module}" for name, module in where.items())
    with WorkerProcesses("glmkit.training.rl.scoring:scorer", *given, inputs=1) as workers:
        assert [one.result() for one in [workers.submit(sample) for sample in noise]] == here
    assert len({str(one) for one in here}) > 2


def test_rewards_are_the_same_with_and_without_processes(
    noise: list[RewardSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RewardSettings(weights={"content": 1.0, "kept": 0.5})
    with Rewards(settings) as rewards:
        alone = rewards.score(noise)
        assert rewards._processes is None
    monkeypatch.setattr(worker_processes, "worth_it", lambda images: images > 1)
    with Rewards(settings) as rewards:
        assert rewards.score(noise) == alone
        assert rewards._processes is not None
        running = list(rewards._processes._running)
    assert running
    assert all(process.poll() is not None for process in running)


def test_a_process_that_dies_costs_one_image(noise: list[RewardSample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_processes, "worth_it", lambda images: images > 0)
    monkeypatch.setattr(runs, "cores", lambda: 1)
    with Rewards(RewardSettings(weights={"content": 1.0})) as rewards:
        before = rewards.score(noise[:1])
        assert rewards._processes is not None
        (process,) = rewards._processes._running
        process.kill()
        process.wait()
        died, fine = rewards.score([noise[0], noise[0]])
    assert "died" in str(died.error)
    assert [fine] == before
