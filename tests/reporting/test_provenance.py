"""What a report says about how images were generated."""

from __future__ import annotations

import pytest

from glmkit.reporting.provenance import generation_settings, value_text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": "somewhere"}, "–"),
        ({"width": 96, "height": 64, "steps": 30, "guidance": 1.5}, "96x64 pixels, 30 steps, guidance 1.5"),
        (
            {"width": 96, "height": 64, "steps": 4, "guidance": 0.0, "prompt_sizes": True},
            "96x64 pixels unless the prompt names a size, 4 steps, guidance 0.0",
        ),
        (
            {"width": 96, "height": 64, "steps": 30, "guidance": 1.5, "reuse": 2, "guided": 1.0},
            "96x64 pixels, 30 steps, guidance 1.5, reuse 2",
        ),
        ({"width": 1024, "height": 1024, "steps": None, "guidance": None, "prompt_sizes": False}, "1024x1024 pixels"),
    ],
)
def test_generation_settings(settings: dict[str, object], said: str) -> None:
    assert generation_settings(settings) == said


@pytest.mark.parametrize(("value", "said"), [("", "none"), (None, "none"), ([], "none"), (0, "0"), ({"a": 1}, "a 1")])
def test_values_as_people_write_them(value: object, said: str) -> None:
    assert value_text(value) == said
