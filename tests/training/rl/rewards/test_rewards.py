"""How rewards are found, put together, and what becomes of failures; OCR is a stand-in that reads image files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from glmkit import config
from glmkit.config import RewardSettings
from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import OcrError, RecognizedLine
from glmkit.records import Prompt
from glmkit.training.rl import rewards
from glmkit.training.rl.rewards import Rewards, RewardSample, attributes

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
