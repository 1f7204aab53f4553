"""What images look like, and which numbers stop a run, with a sentence."""

from __future__ import annotations

import pytest
import yaml
from PIL import Image

from glmkit.config.rl import Limits
from glmkit.errors import UserError
from glmkit.training.rl import monitors

GREY = Image.new("RGB", (64, 64), (100, 100, 100))
FIRST = {"entropy": 3.0, "diversity": 20.0}


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


def test_diversity_is_the_distance_within_a_group() -> None:
    levels = [monitors.thumbnail(Image.new("L", (96, 64), level)) for level in (10, 20, 40, 200)]
    assert monitors.diversity([levels[:3], levels[3:]]) == pytest.approx((10 + 20 + 30) / 3)
    assert monitors.diversity([[levels[0]]]) == 0


WITHIN = {"brightness": 1.5, "edge_density": 0.6, "entropy": 2.0, "diversity": 10.0, "kl": 0.4, "surprise": -0.1}
OUTSIDE = {
    "brightness": (1.7, "1.70 of what it is with its adapters off, limits 0.6 to 1.6"),
    "edge_density": (0.4, "0.40 of what it is with its adapters off"),
    "entropy": (1.2, "0.40 of what it is in the first round"),
    "diversity": (2.0, "0.10 of what it is in the first round"),
    "kl": (0.6, "0.6, limit 0.5"),
    "surprise": (-0.3, "-0.3, limit 0.2"),
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
