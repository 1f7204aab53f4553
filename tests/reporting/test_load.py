"""What a report calls its runs."""

from __future__ import annotations

import pytest

from glmkit.reporting import load


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("runs/poster_lora/adapter", "poster_lora"),
        ("runs/poster_lora/adapter:0.8", "poster_lora:0.8"),
        ("runs/poster_lora/adapter/decoder:0.5", "poster_lora decoder:0.5"),
        ("adapter/decoder", "decoder"),
        ("zai-org/GLM-Image", "GLM-Image"),
        ("adapters/mine:0.5", "mine:0.5"),
        (r"C:\runs\poster_lora\adapter:0.8", "poster_lora:0.8"),
        (r"runs\poster_lora\adapter\decoder", "poster_lora decoder"),
        ("C:/models/mine", "mine"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert load.short_name(name) == short
