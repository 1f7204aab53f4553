"""What images look like, and which numbers stop a run, with a sentence."""

from __future__ import annotations

import pytest
import yaml
from PIL import Image

from glmkit.config.rl import Limits
from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.training.rl import monitors

GREY = Image.new("RGB", (64, 64), (100, 100, 100))
FIRST = {"entropy": 3.0, "diversity": 20.0, "unrequested": 0.05, "duplicates": 0.1}


def test_looks() -> None:
    """By hand: levels of grey are their own luma, two halves are one bit, and one column of pixels is the edge."""
    halves = Image.new("RGB", (64, 64))
    halves.paste((200, 200, 200), (0, 0, 32, 64))
    assert monitors.looks(halves) == pytest.approx({"edge_density": 1 / 63, "colour_entropy": 1.0, "brightness": 100.0})
    assert monitors.looks(GREY) == pytest.approx({"edge_density": 0, "colour_entropy": 0, "brightness": 100})
    both = [monitors.looks(halves)], [monitors.looks(GREY)]
    found = monitors.against_base(*both)
    assert found["brightness"] == pytest.approx(1)
    assert found["edge_density"] == pytest.approx((1 / 63 + 1e-3) / 1e-3)


def test_how_alike_the_images_of_a_group_are() -> None:
    levels = [monitors.thumbnail(Image.new("L", (96, 64), level)) for level in (10, 20, 40, 200)]
    assert monitors.alike([levels[:3], levels[3:]]) == {"diversity": pytest.approx((10 + 20 + 30) / 3), "duplicates": 0}
    assert monitors.alike([[levels[0]]]) == {"diversity": 0, "duplicates": 0}
    twins = [levels[0], levels[1], levels[0] + 0.2]
    assert monitors.alike([twins, [levels[1]]])["duplicates"] == pytest.approx(2 / 4)


def line(text: str, top: int, height: int) -> RecognizedLine:
    return RecognizedLine(text, 1.0, (0, top, 10 * len(text), top + height))


@pytest.mark.parametrize(
    ("lines", "unrequested", "letter_size"),
    [
        ((line("RED FOX", 0, 20), line("Owl", 40, 10)), 0, 1),
        ((line("red fix", 0, 40), line("Owl", 60, 10)), 0, 2**0.5),  # misspelt is not unrequested
        ((line("red fox", 0, 20), line("red fox", 40, 20), line("owl", 80, 10)), 6 / 9, 1),
        ((line("red fox sale", 0, 20),), 4 / 9, 1),  # one text is not there: its size is unknown
        ((), 0, None),
    ],
)
def test_texts(lines: tuple[RecognizedLine, ...], unrequested: float, letter_size: float | None) -> None:
    base = (line("red fox", 0, 20), line("owl", 40, 10))
    measured = monitors.texts(("Red fox", "owl"), lines, base)
    found = monitors.means([measured, measured])
    assert found == {"unrequested": pytest.approx(unrequested)} | (
        {} if letter_size is None else {"letter_size": pytest.approx(letter_size)}
    )
    assert monitors.texts((), lines, base) == {}


WITHIN = {
    "brightness": 1.5,
    "edge_density": 0.6,
    "entropy": 2.0,
    "diversity": 10.0,
    "kl": 0.4,
    "surprise": -0.1,
    "letter_size": 1.9,
    "unrequested": 0.2,
    "duplicates": 0.5,
}
OUTSIDE = {
    "brightness": (1.7, "1.70 of what it is with its adapters off, limits 0.6 to 1.6"),
    "edge_density": (0.4, "0.40 of what it is with its adapters off"),
    "entropy": (1.2, "0.40 of what it is in the first round"),
    "diversity": (2.0, "0.10 of what it is in the first round"),
    "kl": (0.6, "0.6, limit 0.5"),
    "surprise": (-0.3, "-0.3, limit 0.2"),
    "letter_size": (2.5, "2.50 of what it is with its adapters off, limits 0.5 to 2"),
    "unrequested": (0.4, "0.40, 0.35 more than in the first round, limit 0.2"),
    "duplicates": (0.7, "0.70, 0.60 more than in the first round, limit 0.5"),
}


def test_within_its_limits_nothing_stops() -> None:
    monitors.check("autoregressive", 3, WITHIN, FIRST, Limits())
    monitors.check("autoregressive", 3, {"diversity": 0.0}, {"diversity": 0.0}, Limits())


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_it_stops_and_the_advice_works(name: str) -> None:
    value, said = OUTSIDE[name]
    with pytest.raises(UserError) as stopped:
        monitors.check("autoregressive", 3, {**WITHIN, name: value}, FIRST, Limits())
    assert name.replace("_", " ") in stopped.value.what
    assert "at step 3" in stopped.value.what
    assert said in str(stopped.value.found)
    advice = str(stopped.value.fix).rsplit(f"limits.{name}=", 1)[1]
    for bounds in (None, yaml.safe_load(advice)):
        monitors.check("autoregressive", 3, {**WITHIN, name: value}, FIRST, Limits(**{name: bounds}))
