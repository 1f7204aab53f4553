"""What a report calls its runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from glmkit.files import read_json, write_json
from glmkit.records import Prompt
from glmkit.reporting import load

MakeRun = Callable[..., Path]


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


@pytest.mark.parametrize(
    ("name", "adapters", "shown"),
    [
        ("", [], "nano"),
        ("", ["mine/adapter:0.8"], "nano + mine:0.8"),
        ("", ["mine/adapter/autoregressive", "mine/adapter/decoder:0.5"], "folder"),
        ("with <adapter>", ["mine/adapter"], "with <adapter>"),
    ],
)
def test_the_name_of_a_run(
    name: str, adapters: list[str], shown: str, make_run: MakeRun, prompts: list[Prompt]
) -> None:
    folder = make_run("folder", [(prompt, prompt.texts) for prompt in prompts], adapters=adapters)
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "name": name})
    assert [run.name for run in load.load_runs([folder])] == [shown]
