"""The script that measures a server beside its engine runs whole at toy size, and what goes wrong is a row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import load_script

from glmkit.files import read_json

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason="no server: pip install 'glmkit[serve]'")

OPTIONS = ("--device", "cpu", "--compile", "off", "--size", "64x64", "--concurrency", "3", "1")


@pytest.fixture(scope="module")
def script() -> Any:
    load_script("speed_h200")
    return load_script("serve_h200")


def test_toy(script: Any, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(tiny_model), *OPTIONS, "--steps", "4", "--images", "5", "2"]
    assert script.main([str(tmp_path), *options]) == 0
    result = read_json(tmp_path / "serve.json")
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("\n{") :]) == result, "the last of what is printed"
    assert result["environment"]["versions"]["torch"]
    _, *engine, three, one = result["rows"]
    assert [row["batch"] for row in engine] == [1, 3]
    for row in engine:
        assert math.isclose(row["seconds_per_image"], row["image_s"] + row["prior_tokens_s"] / row["batch"])
    for row, clients, images in ((three, 3, 5), (one, 1, 2)):
        assert (row["clients"], row["images"], row["errors"]) == (clients, images, [])
        assert 0 < row["first_partial_p50_s"] < row["p50_s"] <= row["p95_s"]
        assert math.isclose(row["images_per_hour"], 3600 * images / row["seconds"])
        assert row["share_of_engine"] == row["images_per_hour"] / row["engine_images_per_hour"]
    assert [row["engine_images_per_hour"] for row in (one, three)] == [row["images_per_hour"] for row in engine]


def test_requests_that_are_refused(script: Any, tiny_model: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_model), *OPTIONS, "--steps", "101"]
    assert script.main([str(tmp_path), *options]) == 1
    row = read_json(tmp_path / "serve.json")["rows"][-1]
    assert row["images"] == 0
    assert "400" in row["error"]
    assert "at most 100 steps" in row["error"]


def test_no_time(script: Any, tiny_model: Path, tmp_path: Path) -> None:
    assert script.main([str(tmp_path), "--model", str(tiny_model), *OPTIONS, "--seconds", "0"]) == 0
    assert read_json(tmp_path / "serve.json")["rows"] == [{"case": "no time left"}]


def test_numbers_that_do_not_fit(script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit:
        script.main([str(tmp_path), "--concurrency", "1", "4", "--images", "3"])
    assert exit.value.code == 2


@pytest.mark.parametrize("count", [1, 2, 19, 20, 100])
def test_percentiles(count: int) -> None:
    percentile = load_script("serve_clients").percentile
    values = np.random.default_rng(count).random(count).tolist()
    for share in (0.5, 0.95):
        assert percentile(values, share) == np.quantile(values, share, method="inverted_cdf")
    assert percentile([], 0.5) is None
