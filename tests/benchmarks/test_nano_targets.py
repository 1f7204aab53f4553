"""nano's figures are those of the suites, beside their targets; other runs are refused."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.files import write_json, write_jsonl
from glmkit.records import Generation, Score

targets = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "nano_targets.py")))
Counts = dict[str, tuple[float, float]]
SETTINGS = {"count": 1, "width": 256, "height": 256, "model": "nano", "model_fingerprint": "a"}
RIGHT: Counts = {"word_accuracy": (4, 4), "ned": (2, 2), "attribute_accuracy": (3, 3), "all_texts_in_place": (1, 1)}


def finished_run(
    run: Path, split: str | None, *counts: Counts, suite: str = "text-render", prompt_id: str = "", **settings: Any
) -> Path:
    """The folder of a run of one image for each of `counts`."""
    name = split or suite
    rows = [Score(f"{name}-{n}_0", f"{name}-{n}", 0, name, "en", ("A",), (), one) for n, one in enumerate(counts)]
    images = (Generation(row.id, prompt_id or row.prompt_id, "", 0, "x", 1.0) for row in rows)
    write_json(run / "manifest.json", {"settings": SETTINGS | {"suite": suite, "split": split} | settings})
    write_json(run / "summary.json", {})
    write_jsonl(run / "images.jsonl", (image.to_dict() for image in images))
    write_jsonl(run / "scores.jsonl", (row.to_dict() for row in rows))
    return run


def test_figures_are_those_of_the_suite(tmp_path: Path) -> None:
    """In one of two images a text is misread, and one stands elsewhere."""
    wrong = RIGHT | {"word_accuracy": (2, 4), "ned": (1.5, 2), "all_texts_in_place": (0, 1)}
    measured = targets.by_split([finished_run(tmp_path, "multi-text", RIGHT, wrong)])
    found = {name: (figure.value, figure.verdict) for name, figure in measured["multi-text"]["figures"].items()}
    assert found == {
        "word_accuracy": (0.75, "reached"),
        "ned": (0.875, "below"),
        "attribute_accuracy": (1, "resolved"),
        "all_texts_in_place": (0.5, "below"),
    }
    assert "multi-text: 2 of 84 images scored" in targets.table(measured)


def test_other_sizes_may_be_a_little_worse_than_squares(tmp_path: Path) -> None:
    half = RIGHT | {"word_accuracy": (2, 4)}
    simple = finished_run(tmp_path / "a", "simple", RIGHT, half)
    small = finished_run(tmp_path / "b", "simple-320x192", half)
    figures = targets.by_split([simple, small])["simple-320x192"]["figures"]
    assert (figures["word_accuracy"].value, figures["word_accuracy"].target) == (0.5, pytest.approx(0.7))
    with pytest.raises(UserError, match="a run of simple"):
        targets.by_split([small])


def test_edits_have_targets_of_their_own(tmp_path: Path) -> None:
    """Three of four succeed, one of them with noise in the background."""
    outcomes = [(True, 40.0), (True, 30.0), (True, 20.0), (False, 50.0)]
    counts: list[Counts] = [{"edit_success": (success, 1), "background_psnr": (psnr, 1)} for success, psnr in outcomes]
    measured = targets.by_split([finished_run(tmp_path, None, *counts, suite="nano-edit")])
    figures = measured["nano-edit"]["figures"]
    assert {name: (figure.value, figure.target) for name, figure in figures.items()} == {
        "edit_success": (0.75, 0.95),
        "background_psnr": (35.0, 34.0),
    }
    assert "nano-edit: 4 of 64 images scored" in targets.table(measured)


def test_runs_that_measure_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished evaluation"):
        targets.measure(tmp_path)
    with pytest.raises(UserError, match="several images per prompt"):
        targets.measure(finished_run(tmp_path / "seeds", "simple", RIGHT, RIGHT, prompt_id="simple-0"))
    with pytest.raises(UserError, match="no target is known for long"):
        targets.measure(finished_run(tmp_path / "long", "long", RIGHT))
    one, other = (finished_run(tmp_path / name, "simple", RIGHT) for name in "ab")
    with pytest.raises(UserError, match="two runs of simple"):
        targets.by_split([one, other])
    with pytest.raises(UserError, match="different models"):
        targets.by_split([one, finished_run(tmp_path / "c", "simple-signs", RIGHT, model_fingerprint="b")])
