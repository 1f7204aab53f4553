"""nano's figures: perfect images reach every target, a fault costs what it should, and other runs are refused."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.evaluation.metrics import text
from glmkit.files import write_json, write_jsonl
from glmkit.posters.render import render
from glmkit.posters.simple import simple_prompts
from glmkit.records import Generation, Score

targets = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "nano_targets.py")))


NOTHING: Mapping[int, str] = {}
SETTINGS = {"count": 1, "width": 256, "height": 256, "model": "nano", "model_fingerprint": "a"}


def finished_run(run: Path, split: str, n: int, misread: Mapping[int, str] = NOTHING, **settings: Any) -> Path:
    """The folder of a run whose images are the posters themselves; `misread` is what OCR makes of some of them."""
    images, scores = [], []
    for index, (name, scene, prompt) in enumerate(simple_prompts(split)[:n]):
        file = f"images/{name}_0.png"
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        render(scene).save(run / file)
        images.append(Generation(f"{name}_0", name, prompt, 0, file, 2.0 + index))
        lines = (misread[index],) if index in misread else scene.texts
        counts = text.counts(scene.texts, lines, "en")
        scores.append(Score(f"{name}_0", name, 0, split, "en", scene.texts, lines, counts))
    known = SETTINGS | {"suite": "text-render", "split": split}
    write_json(run / "manifest.json", {"settings": known | settings})
    write_json(run / "summary.json", {})
    write_jsonl(run / "images.jsonl", (row.to_dict() for row in images))
    write_jsonl(run / "scores.jsonl", (row.to_dict() for row in scores))
    return run


def test_perfect_images_reach_every_target_at_every_size(tmp_path: Path) -> None:
    splits = ("simple", "simple-320x192", "simple-192x320", "simple-512x512")
    measured = targets.by_split([finished_run(tmp_path / split, split, 5) for split in splits])
    assert list(measured) == list(splits)
    for result in measured.values():
        assert {figure.value for figure in result["figures"].values()} == {1.0}
        assert {figure.target for figure in result["figures"].values()} == {0.85, 0.93, 0.95}
        assert (result["n_scored"], result["n_generated"], result["median_seconds"]) == (5, 5, 4.0)
    shown = " ".join(targets.table(measured).split())
    assert "simple-320x192: 320x192, 5 of 32 images scored, 4.0 s per image" in shown
    assert "background 1.000 [0.566, 1.000] n 5 >= 0.95 reached" in shown


def test_a_fault_costs_its_share(tmp_path: Path) -> None:
    """One word of one image misread, and the image of another prompt in place of the right one."""
    run = finished_run(tmp_path, "simple", 8, misread={0: "CURTAIM"})
    _, scene, _ = simple_prompts("simple")[0]
    assert scene.texts == ("CURTAIN",)
    (run / "images/simple-002_0.png").write_bytes((run / "images/simple-001_0.png").read_bytes())
    _, result = targets.measure(run)
    figures = result["figures"]
    total = sum(len(text.split()) for _, scene, _ in simple_prompts("simple")[:8] for text in scene.texts)
    assert figures["word_accuracy"].value == pytest.approx(1 - 1 / total)
    short = [scene.texts for _, scene, _ in simple_prompts("simple")[:8] if targets.is_short_word(scene.texts)]
    assert (figures["short_words"].n, figures["short_words"].value) == (len(short), pytest.approx(1 - 1 / len(short)))
    assert figures["background"].value == 7 / 8
    assert figures["background"].verdict == "below"


def test_edits_have_targets_of_their_own(tmp_path: Path) -> None:
    """Three of four succeed, one of them with noise in the background."""
    rows = []
    for number, (success, psnr) in enumerate([(True, 40.0), (True, 30.0), (True, 20.0), (False, 50.0)]):
        counts = {"edit_success": (success, 1), "background_psnr": (psnr, 1), "word_accuracy": (1, 1)}
        rows.append(Score(f"add-{number}_0", f"add-{number}", 0, "add", "en", ("A",), ("A",), counts))
    write_json(tmp_path / "manifest.json", {"settings": SETTINGS | {"suite": "nano-edit", "split": None}})
    write_json(tmp_path / "summary.json", {})
    write_jsonl(
        tmp_path / "images.jsonl", (Generation(row.id, row.prompt_id, "", 0, "x", 1.0).to_dict() for row in rows)
    )
    write_jsonl(tmp_path / "scores.jsonl", (row.to_dict() for row in rows))
    measured = targets.by_split([tmp_path])
    figures = measured["nano-edit"]["figures"]
    assert {name: (figure.value, figure.target) for name, figure in figures.items()} == {
        "edit_success": (0.75, 0.75),
        "background_psnr": (35.0, 24.0),
    }
    assert "nano-edit: 256x256, 4 of 64 images scored" in targets.table(measured)


def test_everyday_splits_have_the_figures_of_the_suite(tmp_path: Path) -> None:
    """Two images of multi-text: all is right in one; in the other, a text is misread, and one stands elsewhere."""
    right: dict[str, tuple[float, float]] = {"word_accuracy": (4, 4), "ned": (2, 2)}
    right |= {"attribute_accuracy": (3, 3), "all_texts_in_place": (1, 1)}
    wrong = right | {"word_accuracy": (2, 4), "ned": (1.5, 2), "all_texts_in_place": (0, 1)}
    rows = [
        Score(f"multi-text-00{number}_0", f"multi-text-00{number}", 0, "multi-text", "en", ("A", "B"), (), counts)
        for number, counts in enumerate((right, wrong), start=1)
    ]
    write_json(tmp_path / "manifest.json", {"settings": SETTINGS | {"suite": "text-render", "split": "multi-text"}})
    write_json(tmp_path / "summary.json", {})
    records = (Generation(row.id, row.prompt_id, "", 0, "x", 1.0).to_dict() for row in rows)
    write_jsonl(tmp_path / "images.jsonl", records)
    write_jsonl(tmp_path / "scores.jsonl", (row.to_dict() for row in rows))
    measured = targets.by_split([tmp_path])
    found = {name: figure.value for name, figure in measured["multi-text"]["figures"].items()}
    assert found == {"word_accuracy": 0.75, "ned": 0.875, "attribute_accuracy": 1, "all_texts_in_place": 0.5}
    assert "multi-text: 256x256, 2 of 84 images scored" in targets.table(measured)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("OPENINGS",), True),
        (("Openings!",), True),
        (("Opening24",), False),
        (("Two words",), False),
        (("ONE", "TWO"), False),
    ],
)
def test_short_words(texts: tuple[str, ...], expected: bool) -> None:
    assert targets.is_short_word(texts) == expected


def test_shares_have_wilson_intervals() -> None:
    """8 of 10 by hand: (0.8 + 0.192 -+ 1.96 x sqrt(0.016 + 0.0096)) / 1.384."""
    figure = targets.share([True] * 8 + [False] * 2, 0.5)
    assert (figure.value, figure.n, figure.verdict) == (0.8, 10, "reached")
    assert (round(figure.low, 2), round(figure.high, 2)) == (0.49, 0.94)
    assert targets.share([True] * 100, 0.95).verdict == "resolved"
    assert targets.share([], 0.95).verdict == "below"


def test_runs_that_measure_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished evaluation"):
        targets.measure(tmp_path)
    with pytest.raises(UserError, match="with one image per prompt"):
        targets.measure(finished_run(tmp_path / "seeds", "simple", 1, count=2))
    run = finished_run(tmp_path / "long", "simple", 1)
    write_json(run / "manifest.json", {"settings": {"suite": "text-render", "split": "long", "count": 1}})
    with pytest.raises(UserError, match="with one image per prompt"):
        targets.measure(run)
    one, other = (finished_run(tmp_path / name, "simple", 1) for name in "ab")
    with pytest.raises(UserError, match="two runs of simple"):
        targets.by_split([one, other])
    small = finished_run(tmp_path / "c", "simple-320x192", 1, model_fingerprint="b")
    with pytest.raises(UserError, match="different models"):
        targets.by_split([one, small])
    (small / "images/simple-320x192-001_0.png").write_bytes((one / "images/simple-001_0.png").read_bytes())
    with pytest.raises(UserError, match="--size 320x192"):
        targets.measure(small)
