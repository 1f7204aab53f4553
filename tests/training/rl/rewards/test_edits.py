"""Rewards for edits: true edits before those that are not done, or that change more than was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageOps

from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.posters.edit_set import edit_set
from glmkit.posters.render import render
from glmkit.records import Prompt
from glmkit.training.rl.rewards import RewardSample, edit, kept

EDITS = list({one.kind: (name, one) for name, one in edit_set().items()}.items())


def said(texts: Sequence[str]) -> list[RecognizedLine]:
    return [RecognizedLine(text, 1.0, (0, 30 * n, 90, 30 * n + 20)) for n, text in enumerate(texts)]


@pytest.mark.parametrize(("kind", "named"), EDITS)
def test_an_edit_is_done_and_the_rest_is_kept(kind: str, named: tuple[str, object]) -> None:
    """Untouched, the condition image keeps all and does nothing; inverted, a done edit keeps nothing."""
    name = named[0]
    one = edit_set()[name]
    before, after = render(one.condition), render(one.target)
    prompt = Prompt(name, one.instruction, one.target.texts)
    done, keeps = edit.load("", "cpu"), kept.load("0.7", "cpu")

    def both(image: Image.Image, texts: Sequence[str]) -> tuple[float | None, float | None]:
        sample = RewardSample(prompt, image, condition=before, lines=said(texts))
        return done.score(sample), keeps.score(sample)

    right, untouched = both(after, one.target.texts), both(before, one.condition.texts)
    inverted = both(ImageOps.invert(after), one.target.texts)
    assert right[0] == 1
    assert untouched == (0, 1)
    assert inverted[1] is not None
    assert inverted[1] < 0.2
    if kind != "background":  # which leaves little as it was
        assert right[1] == 1


def test_other_prompts_have_no_edit() -> None:
    sample = RewardSample(Prompt("mine", "Make it blue"), Image.new("RGB", (64, 64)))
    assert edit.load("", "cpu").score(sample) is kept.load("", "cpu").score(sample) is None


@pytest.mark.parametrize(("noise", "reward"), [(0, 1.0), (255 * 10**-1.25, 0.5), (255 * 10**-0.7, 0.0)])
def test_kept_is_linear_in_decibels(noise: float, reward: float) -> None:
    """By hand: an error of s levels everywhere is 20 log10(255 / s) dB, here 25 and 14; of another size, the same."""
    condition = Image.new("RGB", (40, 72), (20, 20, 20))
    image = Image.new("RGB", (80, 144), (20 + round(noise),) * 3)
    image.paste((255, 0, 255), (0, 0, 80, 16))  # the ninth that may change
    score = kept.load("0.2", "cpu").score(RewardSample(Prompt("a", "b"), image, condition=condition))
    assert score == pytest.approx(reward, abs=0.02)


def test_cells_are_means_whatever_the_size() -> None:
    values = np.arange(20 * 33, dtype=np.float64).reshape(20, 33)
    cells = kept._cells(values).reshape(2, 3)
    assert cells[0, 0] == values[:16, :16].mean()
    assert cells[1, 2] == values[16:, 32:].mean()


@pytest.mark.parametrize("share", ["half", "1", "-0.1", "nan"])
def test_a_share_is_below_1(share: str) -> None:
    with pytest.raises(UserError, match="share of an image"):
        kept.check(share)
